// Small helpers to make elements. Text is always set as text: what comes from the network is never parsed as HTML.

/**
 * @param {string} tag
 * @param {Record<string, any>} [attributes] `class`, `title`, `data-…`; a function is an event's listener
 * @param {...(Node | string | number | null | undefined)} children
 */
export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

/** The same in SVG. @param {string} tag */
export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const fill = (element, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined).map(asNode));
  return element;
};

const asNode = (child) => (child instanceof Node ? child : document.createTextNode(String(child)));

/** @param {string} id */
export const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** Set the text of an element, if it is another one: an unchanged one keeps a reader's selection. */
export const say = (target, text) => {
  const element = typeof target === "string" ? byId(target) : target;
  if (element.textContent !== String(text)) element.textContent = String(text);
};

/** A state as a word with a mark. @param {string} grade @param {string} text */
export const badge = (grade, text, title = "") =>
  el("span", { class: `badge ${grade}`, title: title || false }, el("span", { class: "mark", "aria-hidden": "true" }), text);

/** On a phone the tables are laid out as lists, and a browser then forgets that they are tables: say it by name. */
export const nameTables = () => {
  const roles = { table: "table", "thead, tbody": "rowgroup", "thead tr": "row", "thead th": "columnheader" };
  for (const [selector, role] of Object.entries(roles)) {
    for (const element of document.querySelectorAll(selector)) element.setAttribute("role", role);
  }
};

/**
 * Keep the rows of a table in step with items: rows of known keys are reused, so that focus, selection and open details
 * stay.
 * @template T
 * @param {HTMLElement} body
 * @param {T[]} items
 * @param {(item: T) => string} keyOf
 * @param {(item: T) => (Node | string | number | null)[]} cellsOf
 * @param {string} empty what to say when there are none
 */
export const rows = (body, items, keyOf, cellsOf, empty) => {
  const known = new Map([...body.children].map((row) => [/** @type {HTMLElement} */ (row).dataset.key, row]));
  const heads = [...(body.closest("table")?.querySelectorAll("thead th") ?? [])];
  const wanted = items.map((item) => {
    const key = keyOf(item);
    const row = known.get(key) ?? el("tr", { "data-key": key, role: "row" });
    const cells = cellsOf(item);
    cells.forEach((cell, index) => {
      const place = row.children[index] ?? row.appendChild(cellFor(heads[index], index));
      if (!(cell instanceof Node)) say(place, cell ?? "");
      else if (place.firstChild !== cell) place.replaceChildren(cell);
    });
    return row;
  });
  if (!wanted.length) wanted.push(el("tr", { class: "empty", role: "row" }, el("td", { role: "cell", colspan: heads.length || 1 }, empty)));
  const kept = new Set(wanted);
  for (const row of [...body.children]) if (!kept.has(row)) row.remove();
  // Only what stands elsewhere is moved: an element that is put back where it was loses the focus.
  wanted.forEach((row, index) => {
    if (body.children[index] !== row) body.insertBefore(row, body.children[index] ?? null);
  });
};

const cellFor = (head, index) => {
  const cell = index === 0 ? el("th", { scope: "row", role: "rowheader" }) : el("td", { role: "cell" });
  if (head) {
    cell.dataset.label = head.textContent;
    if (head.classList.contains("number")) cell.classList.add("number");
  }
  return cell;
};
