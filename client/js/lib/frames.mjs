// Frames of the IPC contract (ipc_schema/SPEC.md) as an app sees them:
// requests out, replies and events in. No I/O.
import { Decoder, Encoder } from "@msgpack/msgpack";
import { LogosError } from "./errors.mjs";

const encoder = new Encoder({ useBigInt64: true });
const decoder = new Decoder({ useBigInt64: true });
const MAGIC = Buffer.from("LD1");
const INT64_MAX = 2n ** 63n - 1n;

// JavaScript's numbers are exact up to 2^53: beyond it, and only there, integers are BigInt.
const plain = (value) => {
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  if (value === null || typeof value !== "object") return value;
  if (Object.getPrototypeOf(value) !== Object.prototype) throw new LogosError("bad_request", "an extension type");
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
};

// The encoder makes a float of a number that needs more than 32 bits, but a 64 bit integer of a BigInt.
const wire = (value) => {
  if (Number.isSafeInteger(value)) return value > 0xffffffff || value < -0x80000000 ? BigInt(value) : value;
  if (Array.isArray(value)) return value.map(wire);
  if (value === null || typeof value !== "object" || value instanceof Uint8Array) return value;
  const present = Object.entries(value).filter(([, item]) => item !== undefined);
  return Object.fromEntries(present.map(([key, item]) => [key, wire(item)]));
};

const unpack = (frame, what) => {
  try {
    return plain(decoder.decode(frame));
  } catch (error) {
    throw new LogosError("bad_request", `${what}: ${error.message}`);
  }
};

const need = (condition, message) => {
  if (!condition) throw new LogosError("bad_request", message);
};

const isInteger = (value) => typeof value === "bigint" || Number.isInteger(value);
const isUint = (value) => isInteger(value) && value >= 0 && value <= INT64_MAX;
const isBin = (size) => (value) => Buffer.isBuffer(value) && value.length === size;
const isText = (value) => typeof value === "string";
const isBool = (value) => typeof value === "boolean";
const isNs = (value) => isInteger(value) && value <= INT64_MAX && value >= -INT64_MAX - 1n;
const isMap = (value) =>
  value !== null && typeof value === "object" && !Array.isArray(value) && !Buffer.isBuffer(value);

/** The frames of a request. `id`: 16 bytes. */
export const encodeRequest = (id, method, body = {}, blobs = [], { budgetMs = 0, flags = 0 } = {}) =>
  [MAGIC, encoder.encode(wire([id, method, budgetMs, flags])), encoder.encode(wire(body)), ...blobs];

/** Whether frames are an event of the app's stream (an integer leads its header) and no reply. */
export const isEvent = (frames) => frames.length > 1 && frames[1][1] === 1;

/** A reply: `{id, instance, body, blobs, error}`; `error` is a `LogosError` or null. Throws `LogosError`. */
export const decodeReply = (frames) => {
  const [magic, head, packed, ...blobs] = frames[0]?.length === 0 ? frames.slice(1) : frames;
  need(magic && MAGIC.equals(magic) && head && packed, "not the frames of a reply");
  const header = unpack(head, "header");
  need(Array.isArray(header) && header.length >= 3, "header: not an array of three");
  const [id, status, instance] = header;
  need(isBin(16)(id) && isBin(16)(instance) && (status === 0 || status === 1), "header: wrong types");
  const body = unpack(packed, "body");
  need(isMap(body), "body: not a map");
  if (status === 0) return { id, instance, body, blobs, error: null };
  need(isText(body.code) && isText(body.message), "error: no code or message");
  need(body.detail == null || isMap(body.detail), "error: detail is no map");
  return { id, instance, body, blobs, error: new LogosError(body.code, body.message, body) };
};

const isHash = isBin(32);
const isId = isBin(16);
const isMeta = (value) => Buffer.isBuffer(value) && value.length <= 64;
const isTexts = (value) => Array.isArray(value) && value.every(isText);
const isHashOrNil = (value) => value === null || isHash(value);

const RECEIVED = {
  content_topic: isText,
  message_hash: isHash,
  timestamp: isNs,
  meta: isMeta,
  ephemeral: isBool,
  version: isUint,
};
// Kind → name and the header's elements from index 5 on.
const KINDS = [
  ["heartbeat"],
  ["message_received", RECEIVED],
  ["message_propagated", { request_id: isId, message_hash: isHash }],
  ["message_sent", { request_id: isId, message_hash: isHash }],
  ["message_error", { request_id: isId, message_hash: isHashOrNil, text: isText }],
  ["connection_status_change", { status: isText, reason: isText }],
  ["content_topic_health_change", { content_topic: isText, health: isText }],
  ["events_dropped", { first: isUint, last: isUint, reason: isText }],
  ["messages_missed", { content_topics: isTexts, from_ns: isNs, to_ns: isNs, reason: isText }],
  ["message_unconfirmed", { request_id: isId, message_hash: isHash, reason: isText }],
  ["message_cancelled", { request_id: isId }],
  ["taken_over"],
];

/** The kinds of events that an app can get, those of the client's own last. */
export const EVENT_KINDS = [...KINDS.slice(1).map(([name]) => String(name)), "link_lost", "link_restored"];

/**
 * An event: `{event, stream_id, seq, time_ns, …fields, payload}`; kinds of later versions are `unknown`.
 * Throws `LogosError`.
 */
export const decodeEvent = (frames) => {
  const [magic, head, payload = Buffer.alloc(0)] = frames;
  need(magic && MAGIC.equals(magic) && head, "not the frames of an event");
  const header = unpack(head, "event");
  need(Array.isArray(header) && header.length >= 5 && header[0] === 1, "event: not an array of five that 1 leads");
  const [, stream_id, seq, kind, time_ns, ...values] = header;
  need(isId(stream_id) && isUint(seq) && isUint(kind) && isNs(time_ns), "event: wrong types");
  const common = { stream_id, seq, time_ns };
  if (!KINDS[kind]) return { event: "unknown", kind, ...common, payload };
  const [event, fields = {}] = KINDS[kind];
  const named = Object.entries(fields).map(([name, fits], index) => {
    need(index < values.length && fits(values[index]), `${event}: ${name} is missing or of another type`);
    return [name, values[index]];
  });
  return { event, ...common, ...Object.fromEntries(named), payload };
};
