// Frames of the IPC contract (ipc_schema/SPEC.md) as a client sees them:
// requests out, replies and events in. No I/O.
import { Decoder, Encoder } from "@msgpack/msgpack";
import { EVENTS, KERNEL_EVENTS } from "./contract.mjs";
import { LogosError } from "./errors.mjs";

const encoder = new Encoder({ useBigInt64: true, ignoreUndefined: true });
const decoder = new Decoder({ useBigInt64: true });
const MAGIC = Buffer.from("LD1");
const INT64_MAX = 2n ** 63n - 1n;

// JavaScript's numbers are exact up to 2^53: beyond it, and only there, integers are BigInt.
/** What the decoder has made, changed in place. @param {any} value @returns {any} */
const plain = (value) => {
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  if (value === null || typeof value !== "object" || Buffer.isBuffer(value)) return value;
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index += 1) value[index] = plain(value[index]);
    return value;
  }
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  if (Object.getPrototypeOf(value) !== Object.prototype) throw new LogosError("bad_request", "an extension type");
  for (const key of Object.keys(value)) value[key] = plain(value[key]);
  return value;
};

// The encoder makes a float of a number that needs more than 32 bits, but a 64 bit integer of a BigInt.
/** @param {any} value */
const isLarge = (value) => Number.isSafeInteger(value) && (value > 0xffffffff || value < -0x80000000);
/** @param {any} value @returns {boolean} */
const hasLarge = (value) => {
  if (value === null || typeof value !== "object" || value instanceof Uint8Array) return isLarge(value);
  if (Array.isArray(value)) return value.some(hasLarge);
  for (const key of Object.keys(value)) if (hasLarge(value[key])) return true;
  return false;
};
/** @param {any} value @returns {any} */
const wire = (value) => {
  if (isLarge(value)) return BigInt(value);
  if (Array.isArray(value)) return value.map(wire);
  if (value === null || typeof value !== "object" || value instanceof Uint8Array) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, wire(item)]));
};

/** Copied into Node's pool of buffers: an array of its own costs more than the encoding. @param {any} value */
const pack = (value) => Buffer.from(encoder.encodeSharedRef(value));

/** @param {Uint8Array} frame @param {string} what @returns {any} */
const unpack = (frame, what) => {
  try {
    return plain(decoder.decode(frame));
  } catch (error) {
    throw new LogosError("bad_request", `${what}: ${/** @type {Error} */ (error).message}`);
  }
};

/** @param {unknown} condition @param {string} message */
const need = (condition, message) => {
  if (!condition) throw new LogosError("bad_request", message);
};

const isInteger = (/** @type {any} */ value) => typeof value === "bigint" || Number.isInteger(value);
const isUint = (/** @type {any} */ value) => isInteger(value) && value >= 0 && value <= INT64_MAX;
const isBin = (/** @type {number} */ size) => (/** @type {any} */ value) => Buffer.isBuffer(value) && value.length === size;
const isText = (/** @type {any} */ value) => typeof value === "string";
const isBool = (/** @type {any} */ value) => typeof value === "boolean";
const isNs = (/** @type {any} */ value) => isInteger(value) && value <= INT64_MAX && value >= -INT64_MAX - 1n;
const isMap = (/** @type {any} */ value) =>
  value !== null && typeof value === "object" && !Array.isArray(value) && !Buffer.isBuffer(value);

/**
 * The frames of a request.
 * @param {Uint8Array} id 16 bytes
 * @param {string} method
 * @param {Record<string, unknown>} [body]
 * @param {Uint8Array[]} [blobs]
 * @param {{budgetMs?: number, flags?: number}} [options]
 * @returns {Uint8Array[]}
 */
export const encodeRequest = (id, method, body = {}, blobs = [], { budgetMs = 0, flags = 0 } = {}) =>
  [MAGIC, pack([id, method, budgetMs, flags]), pack(hasLarge(body) ? wire(body) : body), ...blobs];

/** Whether frames are an event of the app's stream (an integer leads its header) and no reply. @param {Buffer[]} frames */
export const isEvent = (frames) => frames.length > 1 && frames[1][1] === 1;

/** @param {Buffer} head @returns {{id: Buffer, status: number, instance: Buffer}} */
const replyHeader = (head) => {
  // `[bin16, 0 or 1, bin16]` in the shortest form, as almost every reply has it: three bytes that do not vary lead each.
  if (head.length === 38 && head.readUIntBE(0, 3) === 0x93c410 && head[19] <= 1 && head.readUInt16BE(20) === 0xc410) {
    return { id: head.subarray(3, 19), status: head[19], instance: head.subarray(22) };
  }
  const header = unpack(head, "header");
  need(Array.isArray(header) && header.length >= 3, "header: not an array of three");
  const [id, status, instance] = header;
  need(isBin(16)(id) && isBin(16)(instance) && (status === 0 || status === 1), "header: wrong types");
  return { id, status, instance };
};

/**
 * A reply: `{id, instance, body, blobs, error}`; `error` is a `LogosError` or null. Throws `LogosError`.
 * @param {Buffer[]} frames
 * @returns {{id: Buffer, instance: Buffer, body: Record<string, any>, blobs: Buffer[], error: LogosError | null}}
 */
export const decodeReply = (frames) => {
  const first = frames[0]?.length === 0 ? 1 : 0; // an empty delimiter may lead
  const [magic, head, packed] = [frames[first], frames[first + 1], frames[first + 2]];
  need(magic && MAGIC.equals(magic) && head && packed, "not the frames of a reply");
  const blobs = frames.slice(first + 3);
  const { id, status, instance } = replyHeader(head);
  const body = unpack(packed, "body");
  need(isMap(body), "body: not a map");
  if (status === 0) return { id, instance, body, blobs, error: null };
  need(isText(body.code) && isText(body.message), "error: no code or message");
  need(body.detail == null || isMap(body.detail), "error: detail is not a map");
  return { id, instance, body, blobs, error: new LogosError(body.code, body.message, body) };
};

const isHash = isBin(32);
const isId = isBin(16);
const isMeta = (/** @type {any} */ value) => Buffer.isBuffer(value) && value.length <= 64;
const isTexts = (/** @type {any} */ value) => Array.isArray(value) && value.every(isText);
const isHashOrNil = (/** @type {any} */ value) => value === null || isHash(value);

/** @type {Record<string, (value: any) => boolean>} */
const CHECKS = {
  text: isText, texts: isTexts, bool: isBool, uint: isUint, ns: isNs, id: isId, hash: isHash, "hash?": isHashOrNil, meta: isMeta, bytes: Buffer.isBuffer,
  bin: Buffer.isBuffer, map: isMap, uint8: (value) => isUint(value) && value <= 0xff, uint32: (value) => isUint(value) && value <= 0xffffffff,
};

/** @typedef {{name: string, check: (value: any) => boolean, absent: string | undefined}} Element */
/** Of each kind that has come. @type {WeakMap<Record<string, string>, Element[]>} */
const plans = new WeakMap();

/** @param {Record<string, string>} fields */
const planOf = (fields) => {
  let plan = plans.get(fields);
  if (!plan) {
    plan = Object.entries(fields).map(([name, check]) => {
      const [type, absent] = check.split("="); // with a default: an element that older headers lack
      return { name, check: CHECKS[type], absent };
    });
    plans.set(fields, plan);
  }
  return plan;
};

/**
 * Add the elements of a header behind the common ones, by name.
 * @param {Record<string, any>} into
 * @param {string} event
 * @param {Record<string, string>} fields
 * @param {any[]} header
 * @param {number} first the index of the first one
 */
const fill = (into, event, fields, header, first) => {
  let index = first;
  for (const { name, check, absent } of planOf(fields)) {
    const value = index < header.length ? header[index] : absent;
    if (value === undefined || (index < header.length && !check(value))) {
      throw new LogosError("bad_request", `${event}: ${name} is missing or of another type`);
    }
    into[name] = value;
    index += 1;
  }
  return into;
};

/**
 * An event: `{event, stream_id, seq, time_ns, …fields, payload}`; kinds of later versions are `unknown`.
 * Throws `LogosError`.
 * @param {Buffer[]} frames
 * @returns {Record<string, any>}
 */
export const decodeEvent = (frames) => {
  const [magic, head, payload = Buffer.alloc(0)] = frames;
  need(magic && MAGIC.equals(magic) && head, "not the frames of an event");
  const header = unpack(head, "event");
  need(Array.isArray(header) && header.length >= 5 && header[0] === 1, "event: not an array of five that 1 leads");
  const [, stream_id, seq, kind, time_ns] = header;
  need(isId(stream_id) && isUint(seq) && isUint(kind) && isNs(time_ns), "event: wrong types");
  if (!EVENTS[kind]) return { event: "unknown", kind, stream_id, seq, time_ns, payload };
  const [event, fields] = EVENTS[kind];
  const found = fill({ event, stream_id, seq, time_ns }, event, fields, header, 5);
  found.payload = payload;
  return found;
};

const isEpoch = isBin(8);

/**
 * An event of one of a kernel's streams: `{event, topic, instance, epoch, seq, time_ns, …fields, payload}`; kinds of later
 * versions are `unknown`. Throws `LogosError`.
 * @param {Buffer[]} frames
 * @returns {Record<string, any>}
 */
export const decodeKernelEvent = (frames) => {
  need(frames.length === 3, `an event of ${frames.length} frames`);
  const [topic, head, payload] = frames;
  const header = unpack(head, "event header");
  need(Array.isArray(header) && header.length >= 6 && header[0] === 1, "event header: not an array of six that 1 leads");
  const [, kind, instance, epoch, seq, time_ns] = header;
  need(isUint(kind) && isId(instance) && isEpoch(epoch) && isUint(seq) && isNs(time_ns), "event header: wrong types");
  const common = { topic, instance, epoch, seq, time_ns };
  if (!KERNEL_EVENTS[kind]) return { event: "unknown", kind, ...common, payload };
  const [event, fields] = KERNEL_EVENTS[kind];
  const own = fill({}, event, fields, header, 6);
  if (event === "peer") need(isText(own.peer.peer_id), "peer: no peer id");
  if (event === "health") need(isText(own.health.state), "health: no state");
  return { event, ...common, ...own, payload };
};

/** The version of a kernel's event header that is of another one than ours. @param {Buffer | undefined} head */
export const otherVersion = (head) => {
  try {
    const [version] = head ? unpack(head, "event header") : [];
    return isUint(version) && version !== 1 ? version : undefined;
  } catch {
    return undefined;
  }
};

/**
 * The messages of a store's answer: two blobs of each. Throws `LogosError`.
 * @param {Buffer[]} hashes
 * @param {Buffer[]} blobs
 */
export const decodeStored = (hashes, blobs) => {
  need(blobs.length === 2 * hashes.length, `store.query: ${hashes.length} messages need ${2 * hashes.length} blobs, not ${blobs.length}`);
  return hashes.map((message_hash, index) => {
    const header = unpack(blobs[2 * index], "stored message");
    need(Array.isArray(header), "stored message: its header is not an array");
    return { message_hash, ...fill({}, "stored message", STORED, header, 0), payload: blobs[2 * index + 1] };
  });
};
const STORED = {
  pubsub_topic: "text", content_topic: "text", timestamp: "ns", meta: "meta", ephemeral: "bool", version: "uint32", proof: "bin",
};
