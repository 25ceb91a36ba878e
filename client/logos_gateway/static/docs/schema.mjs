// A JSON schema for people: an outline of what fits it, and one example. No document here.

const DEEPEST = 6;

/** @param {any} document @param {any} schema */
const resolve = (document, schema) => {
  if (!schema?.$ref) return schema ?? {};
  return schema.$ref.split("/").slice(1).reduce((place, key) => place[key], document);
};

const short = ({ type, enum: values, contentEncoding, pattern }) => {
  if (values) return values.map((value) => JSON.stringify(value)).join(" | ");
  if (contentEncoding) return contentEncoding;
  const name = Array.isArray(type) ? type.join(" | ") : (type ?? "anything");
  return pattern ? `${name} like ${pattern}` : name;
};

/** @param {any} document @param {any} schema @param {string} [indent] @returns {string} */
export const outline = (document, schema, indent = "") => {
  const found = resolve(document, schema);
  if (indent.length / 2 > DEEPEST) return "…";
  if (found.anyOf) return found.anyOf.map((one) => outline(document, one, indent)).join(" | ");
  if (found.type === "array") return `[ ${outline(document, found.items, indent)}, … ]`;
  if (found.type !== "object") return short(found);
  const inner = `${indent}  `;
  const lines = Object.entries(found.properties ?? {}).map(([name, one]) => {
    const about = resolve(document, one).description ?? one.description;
    const optional = found.required?.includes(name) ? "" : "?";
    return `${inner}${name}${optional}: ${outline(document, one, inner)}${about ? `  // ${about}` : ""}`;
  });
  if (found.additionalProperties) lines.push(`${inner}…: ${outline(document, found.additionalProperties, inner)}`);
  return lines.length ? `{\n${lines.join("\n")}\n${indent}}` : "{ … }";
};

/** @param {any} document @param {any} schema @returns {any} */
export const exampleOf = (document, schema) => {
  const found = resolve(document, schema);
  if (found.examples) return found.examples[0];
  if (found.enum) return found.enum[0];
  if (found.anyOf) return exampleOf(document, found.anyOf[0]);
  if (found.contentEncoding === "base64") return "aGVsbG8=";
  if (found.type === "array") return [exampleOf(document, found.items)];
  if (found.type === "object") {
    return Object.fromEntries((found.required ?? []).map((name) => [name, exampleOf(document, found.properties[name])]));
  }
  return { integer: 1, number: 1, boolean: false }[found.type] ?? "text";
};
