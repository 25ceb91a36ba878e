// What an app or a feed gets, as objects that print well.
import { toHex } from "./bytes.mjs";

/** @param {unknown} value @returns {unknown} */
const readable = (value) => {
  if (value instanceof Uint8Array) return toHex(value);
  if (typeof value === "bigint") return value.toString();
  if (Array.isArray(value)) return value.map(readable);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, readable(item)]));
};

/**
 * One event: `event` is its kind (`"message_received"`, …), the other keys are the contract's. `JSON.stringify` makes
 * bytes hex and integers beyond 2^53 text; printed, ids are hex.
 */
export class AppEvent {
  /** @param {Record<string, any>} fields */
  constructor(fields) {
    /** @type {string} */ this.event = fields.event;
    Object.assign(this, fields);
  }

  toJSON() {
    return readable({ ...this });
  }

  // Node.js calls it to print; it brings its own function along.
  [Symbol.for("nodejs.util.inspect.custom")](/** @type {number} */ _depth, /** @type {any} */ options, /** @type {any} */ inspect) {
    const shown = Object.entries(this).map(([key, value]) => {
      const id = value instanceof Uint8Array && key !== "payload";
      return [key, id ? toHex(value) : value];
    });
    return `${this.event} ${inspect(Object.fromEntries(shown.slice(1)), options)}`;
  }
}
