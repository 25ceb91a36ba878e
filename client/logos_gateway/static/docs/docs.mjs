// Shows /openapi.json for people. Everything is set as text; nothing comes from elsewhere.
import { exampleOf, outline } from "./schema.mjs";

const el = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
};

/** Text in which `code` stands between backticks. @param {string} text */
const prose = (text) =>
  text.split("\n\n").map((paragraph) => el("p", {}, ...paragraph.split("`").map((part, index) => (index % 2 ? el("code", {}, part) : part))));

const facts = (title, entries) =>
  entries.length ? [el("h3", {}, title), el("dl", {}, ...entries.flatMap(([name, ...what]) => [el("dt", {}, name), el("dd", {}, ...what)]))] : [];

const content = (document_, { content: kinds = {} }) =>
  Object.entries(kinds).map(([kind, { schema }]) => el("div", {}, el("code", {}, kind), el("pre", {}, outline(document_, schema))));

const operationOf = (document_, method, path, operation) => {
  const scope = operation.security?.[0]?.bearer?.[0];
  const parameters = (operation.parameters ?? []).map((one) => [one.name, `${one.in}${one.required ? "" : ", optional"}: ${one.description}`]);
  const body = operation.requestBody?.content?.["application/json"];
  return el(
    "details", { class: "operation", id: operation.operationId },
    el("summary", {},
      el("span", { class: `method ${method}` }, method.toUpperCase()), el("code", { class: "path" }, path),
      el("span", { class: "what" }, operation.summary ?? ""), scope ? el("span", { class: "scope" }, scope) : null),
    el("div", {},
      ...prose(operation.description ?? ""),
      ...facts("Parameters", parameters),
      ...(body ? [el("h3", {}, "Body"), el("pre", {}, outline(document_, body.schema)), el("h3", {}, "With curl"), el("pre", {}, curl(document_, method, path, body))] : []),
      ...facts("Answers", Object.entries(operation.responses).map(([status, answer]) => [status, answer.description, ...content(document_, answer)]))),
  );
};

const curl = (document_, method, path, body) => {
  const example = body.example ?? exampleOf(document_, body.schema);
  const data = JSON.stringify(example).replaceAll("'", "'\\''");
  return `curl -X ${method.toUpperCase()} ${new URL(`../${path.slice(1)}`, import.meta.url)} \\\n  -H 'Content-Type: application/json' \\\n  -d '${data}'`;
};

const find = document.getElementById("find");
const main = document.getElementById("main");

const filter = () => {
  const wanted = find.value.trim().toLowerCase();
  let count = 0;
  for (const one of main.querySelectorAll("details.operation")) {
    one.hidden = wanted !== "" && !one.textContent.toLowerCase().includes(wanted);
    count += one.hidden ? 0 : 1;
  }
  for (const group of main.querySelectorAll("section")) group.hidden = !group.querySelector("details.operation:not([hidden])");
  document.getElementById("found").textContent = wanted ? `${count} ${count === 1 ? "operation fits" : "operations fit"}` : "";
};

try {
  const response = await fetch(new URL("../openapi.json", import.meta.url));
  if (!response.ok) throw new Error(`the gateway answers ${response.status}`);
  const document_ = await response.json();
  document.getElementById("version").replaceChildren(`${document_.info.title} ${document_.info.version} · `, el("a", { href: "openapi.json" }, "openapi.json"));
  document.getElementById("about").append(...prose(document_.info.description));
  for (const { name, description } of document_.tags) {
    const found = Object.entries(document_.paths).flatMap(([path, item]) =>
      Object.entries(item).filter(([, operation]) => operation.tags?.includes(name)).map(([method, operation]) => operationOf(document_, method, path, operation)));
    if (found.length) main.append(el("section", { "aria-label": name }, el("h2", { id: `group-${name}` }, name), ...prose(description), ...found));
  }
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named instanceof HTMLDetailsElement) {
    named.open = true;
    named.scrollIntoView();
  }
} catch (error) {
  document.getElementById("version").textContent = `The document cannot be read: ${error.message}`;
}
find.addEventListener("input", filter);
