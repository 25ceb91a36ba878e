// Arguments that no server needs to see are refused here, with a `TypeError` that says what is right.
import { isAbsolute, join, resolve } from "node:path";
import { LogosError } from "./errors.mjs";

const MAX_SOCKET_PATH = 107; // bytes that a `sockaddr_un` has for a path, without its NUL
const NAME = /^[a-z0-9._-]{1,64}$/;

/**
 * The apps' endpoint of a node's run directory, or the endpoint itself.
 * @param {string} where
 */
export const messagingEndpoint = (where) => {
  text("endpoint", where);
  if (where === "") throw new TypeError("endpoint: it is empty");
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(where)?.[1];
  if (scheme && scheme !== "ipc" && scheme !== "tcp") {
    throw new TypeError(`${where}: an endpoint is ipc://…, tcp://… or a node's run directory, not ${scheme}://…`);
  }
  const endpoint = scheme ? where : socketIn(where, "mapi", "apps");
  if (endpoint.startsWith("ipc://")) {
    const path = endpoint.slice("ipc://".length);
    needShort(path);
    const other = /\/(kernel\/(?:events|requests|control)|mapi\/control)$/.exec(path)?.[1];
    if (other) throw new TypeError(`${where} is the socket ${other} of a node; apps connect to mapi/apps`);
  }
  return endpoint;
};

/** @param {string} directory @param {string[]} names */
const socketIn = (directory, ...names) => `ipc://${join(isAbsolute(directory) ? directory : resolve(directory), ...names)}`;

/** @param {string} path */
const needShort = (path) => {
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH) {
    throw new TypeError(`socket path ${path} has more than ${MAX_SOCKET_PATH} bytes: connect by a shorter path`);
  }
};

/** The sockets of the kernel of a node's run directory. @param {string} directory */
export const kernelEndpoints = (directory) => {
  text("directory", directory);
  if (directory === "" || /^[a-z][a-z0-9+.-]*:\/\//i.test(directory)) {
    throw new TypeError(`${JSON.stringify(directory)}: a kernel has several sockets: name its node's run directory`);
  }
  const [events, requests, control] = ["events", "requests", "control"].map((name) => socketIn(directory, "kernel", name));
  needShort(requests.slice("ipc://".length));
  return { events, requests, control };
};

/** @param {import("./messaging.mjs").ConnectOptions} options */
export const options = ({ name, takeover, credit, ack, timeout, onError }) => {
  if (name !== undefined && !(typeof name === "string" && NAME.test(name))) {
    throw new TypeError(`name: 1 to 64 of a-z, 0-9, ".", "_" and "-", not ${JSON.stringify(name)}`);
  }
  if (takeover !== undefined && typeof takeover !== "boolean") throw new TypeError("takeover: true or false");
  if (credit !== undefined && !(Number.isSafeInteger(credit) && credit > 0)) {
    throw new TypeError("credit: bytes, at least one");
  }
  if (ack !== undefined && ack !== "auto" && ack !== "manual") {
    throw new TypeError(`ack: "auto" or "manual", not ${JSON.stringify(ack)}`);
  }
  if (timeout !== undefined && !(typeof timeout === "number" && timeout >= 0)) {
    throw new TypeError("timeout: milliseconds");
  }
  if (onError !== undefined && typeof onError !== "function") throw new TypeError("onError: a function");
};

/** @param {unknown} wanted @returns {string[]} */
export const topics = (wanted) => {
  const list = Array.isArray(wanted) ? wanted : [wanted];
  list.forEach((topic) => text("content topic", topic));
  return list;
};

/** @param {string} what @param {unknown} value */
export const text = (what, value) => {
  if (typeof value !== "string") throw new TypeError(`${what}: a string, not ${kind(value)}`);
};

/** @param {string} what @param {unknown} value @param {number} [size] */
export const bytes = (what, value, size) => {
  if (!(value instanceof Uint8Array)) {
    const hint = typeof value === "string" ? "; Buffer.from(text) makes bytes of text" : "";
    throw new TypeError(`${what}: bytes (a Uint8Array or Buffer), not ${kind(value)}${hint}`);
  }
  if (size !== undefined && value.length !== size) throw new TypeError(`${what}: ${size} bytes, not ${value.length}`);
};

/** @param {string} what @param {unknown} value */
export const nanoseconds = (what, value) => {
  if (!(typeof value === "bigint" || Number.isSafeInteger(value)) || /** @type {any} */ (value) < 1) {
    throw new TypeError(`${what}: nanoseconds since 1970, a BigInt such as BigInt(Date.now()) * 1_000_000n`);
  }
};

/** @param {unknown} value */
const kind = (value) => (value === null ? "null" : typeof value);

/** The reply to an app's hello. Throws a `LogosError` where it is none. @param {Record<string, any>} hello */
export const greeting = ({ server, protocol, stream, subscriptions, app, durable, limits, network }) => {
  if (typeof server === "string" && server.startsWith("logos-kernel/")) {
    throw new LogosError("bad_request", `this is a kernel (${server}); apps connect to a Messaging API: …/mapi/apps`);
  }
  const fine =
    protocol === 1 &&
    Buffer.isBuffer(stream?.id) && stream.id.length === 16 && Number.isSafeInteger(stream.acked) &&
    Array.isArray(subscriptions) && subscriptions.every((topic) => typeof topic === "string") &&
    typeof app === "string" && typeof durable === "boolean" && isMap(limits) && isMap(network);
  if (!fine) throw new LogosError("bad_request", "hello: the reply is not that of a Messaging API");
};

/** The reply to a consumer's hello. Throws a `LogosError` where it is none. @param {Record<string, any>} hello */
export const kernelGreeting = ({ server, protocol, instance, consumer, limits, network }) => {
  if (typeof server === "string" && server.startsWith("logos-mapi/")) {
    throw new LogosError("bad_request", `this is a Messaging API (${server}), not a kernel: apps use MessagingClient`);
  }
  const fine =
    protocol === 1 && Buffer.isBuffer(instance) && instance.length === 16 && typeof consumer === "string" &&
    isMap(limits) && isMap(network) && Number.isSafeInteger(network.cluster);
  if (!fine) throw new LogosError("bad_request", "hello: the reply is not that of a kernel");
};

/** @param {unknown} value */
const isMap = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
