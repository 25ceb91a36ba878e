// What apps pass: wrong kinds are a TypeError at once.

/**
 * @typedef {object} ConnectOptions
 * @property {string} name the app (`[a-z0-9._-]{1,64}`): its subscriptions, stream and position outlive this page
 * @property {string | (() => string)} [token] the bearer token, where the gateway asks for one
 * @property {boolean} [takeover] end another live connection of that name
 * @property {number} [credit] bytes of events that may wait here or be on their way
 * @property {"auto" | "manual"} [ack] `"auto"` acknowledges an event when the next one is asked for, its callbacks have
 *   returned, or the client is closed; `"manual"` leaves it to `ack`
 * @property {number} [timeout] ms to wait for the gateway
 * @property {(error: unknown, event: import("./types.mjs").Event) => void} [onError] gets what a callback throws
 */

const NAME = /^[a-z0-9._-]{1,64}$/;

/** @param {unknown} wanted @returns {string[]} */
export const list = (wanted) => {
  const found = Array.isArray(wanted) ? wanted : [wanted];
  if (!found.every((topic) => typeof topic === "string")) throw new TypeError("content topic: a string");
  return found;
};

/** @param {string} what @param {unknown} value @returns {string} */
export const text = (what, value) => {
  if (typeof value !== "string") throw new TypeError(`${what}: a string`);
  return value;
};

/** @param {string} what @param {unknown} value @param {number} [size] */
export const bytes = (what, value, size) => {
  if (!(value instanceof Uint8Array)) throw new TypeError(`${what}: bytes (a Uint8Array); new TextEncoder().encode(text) makes them of text`);
  if (size !== undefined && value.length !== size) throw new TypeError(`${what}: ${size} bytes, not ${value.length}`);
};

/** @param {ConnectOptions} options */
export const checkOptions = (options) => {
  const { name, credit, ack, timeout, onError } = options ?? {};
  if (!(typeof name === "string" && NAME.test(name))) {
    throw new TypeError(`name: 1 to 64 of a-z, 0-9, ".", "_" and "-" is needed, not ${JSON.stringify(name)}`);
  }
  if (credit !== undefined && !(Number.isSafeInteger(credit) && credit > 0)) throw new TypeError("credit: bytes, at least one");
  if (ack !== undefined && ack !== "auto" && ack !== "manual") throw new TypeError(`ack: "auto" or "manual", not ${JSON.stringify(ack)}`);
  if (timeout !== undefined && !(typeof timeout === "number" && timeout >= 0)) throw new TypeError("timeout: milliseconds");
  if (onError !== undefined && typeof onError !== "function") throw new TypeError("onError: a function");
};
