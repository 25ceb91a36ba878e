// Frames of a gateway's WebSocket (`logos.json.v1`) ↔ values of the contract. No I/O.
import { fromHex } from "../bytes.mjs";
import { EVENTS } from "../contract.mjs";

/** @typedef {{cost?: number, event: any}} Shown */
/** @typedef {{type: string, id?: number | null, events?: Shown[], problem?: any, reason?: string}} Frame */

const KINDS = new Map(EVENTS);
// JSON's integers would lose their last digits beyond 2^53: nanoseconds are read as text. Inside a text of the frame
// these quotes stand behind backslashes, so nothing of a message's can look like one of these keys.
const LARGE = /("[A-Za-z]+":)(-?\d{16,})(?=[,}\]])/g;

/** @param {string} name `content_topic` → `contentTopic` */
const camel = (name) => name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());

/** A frame of the gateway; null where it is none. @param {unknown} text @returns {Frame | null} */
export const decodeFrame = (text) => {
  if (typeof text !== "string") return null;
  try {
    const frame = JSON.parse(text.replace(LARGE, '$1"$2"'));
    return frame !== null && typeof frame === "object" && typeof frame.type === "string" ? frame : null;
  } catch {
    return null;
  }
};

/** @param {any} value @returns {number | bigint | null} */
const integer = (value) => {
  if (typeof value === "string" && /^-?\d+$/.test(value)) value = BigInt(value);
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  return Number.isSafeInteger(value) ? value : null;
};

/** @param {any} text @returns {Uint8Array | null} */
export const fromBase64 = (text) => {
  if (typeof text !== "string") return null;
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch {
    return null;
  }
};

const PIECE = 32_768; // arguments that a call surely takes

/** @param {Uint8Array} bytes */
export const toBase64 = (bytes) => {
  let text = "";
  for (let at = 0; at < bytes.length; at += PIECE) text += String.fromCharCode(...bytes.subarray(at, at + PIECE));
  return btoa(text);
};

/** @param {any} value @param {number} size */
const hex = (value, size) => {
  const bytes = typeof value === "string" ? fromHex(value.replace(/^0x/, "")) : null;
  return bytes?.length === size ? bytes : null;
};

const number = (/** @type {any} */ value) => (Number.isSafeInteger(value) && value >= 0 ? value : null);
const text = (/** @type {any} */ value) => (typeof value === "string" ? value : null);

/** Check → reads a value, null where it is not of that kind. @type {Record<string, (value: any) => any>} */
const READERS = {
  text,
  texts: (value) => (Array.isArray(value) && value.every((item) => typeof item === "string") ? value : null),
  bool: (value) => (typeof value === "boolean" ? value : null),
  uint: number,
  uint32: (value) => (value <= 0xffffffff ? number(value) : null),
  ns: integer,
  id: (value) => hex(value, 16),
  hash: (value) => hex(value, 32),
  meta: fromBase64,
  bytes: fromBase64,
};

/**
 * An event by the contract's names; null where it is none. Kinds of later versions are `unknown`. One without a
 * `stream_id` is about the gateway's own connection to the Messaging API.
 * @param {any} shown
 * @returns {Record<string, any> | null}
 */
export const readEvent = (shown) => {
  if (shown === null || typeof shown !== "object" || typeof shown.kind !== "string") return null;
  if (shown.kind === "link_lost") return { event: "link_lost", reason: String(shown.reason ?? "") };
  if (shown.kind === "link_restored") return readRestored(shown);
  const [stream_id, seq, time_ns] = [hex(shown.streamId, 16), number(shown.seq), integer(shown.timeNs)];
  if (stream_id === null || seq === null || time_ns === null) return null;
  const fields = KINDS.get(shown.kind);
  if (!fields) return { event: "unknown", kind: shown.kind, stream_id, seq, time_ns };
  /** @type {Record<string, any>} */
  const event = { event: shown.kind, stream_id, seq, time_ns };
  for (const [name, check] of Object.entries(fields)) {
    const [kind, otherwise] = check.split("="); // what an older node does not say
    const value = shown[camel(name)] ?? otherwise ?? null;
    const read = value === null ? null : READERS[kind.replace("?", "")](value);
    if (read === null && (value !== null || !kind.endsWith("?"))) return null;
    event[name] = read;
  }
  event.payload = shown.payload === undefined ? new Uint8Array(0) : fromBase64(shown.payload);
  return event.payload === null ? null : event;
};

/** @param {any} shown */
const readRestored = (shown) => ({
  event: "link_restored",
  resumed: shown.resumed === true,
  lost_stream: hex(shown.lostStream, 16),
  last_seq: number(shown.lastSeq) ?? 0,
  subscription_errors: shown.subscriptionErrors ?? {},
});

/** A send of a channel without an end. @param {any} shown @returns {import("./types.mjs").PendingChannelSend} */
export const readPendingInChannel = (shown) => ({
  request_id: hex(shown.requestId, 16) ?? new Uint8Array(0),
  sent: shown.sent ?? shown.state === "sent",
  end: shown.sent === undefined ? "" : shown.state,
  detail: shown.detail ?? "",
});

/** A send without a fate. @param {any} shown @returns {import("./types.mjs").PendingSend} */
export const readPending = (shown) => ({
  request_id: hex(shown.requestId, 16) ?? new Uint8Array(0),
  content_topic: shown.contentTopic,
  state: shown.state,
  accepted_ns: integer(shown.acceptedNs) ?? 0,
  attempts: shown.attempts,
  message_hash: hex(shown.messageHash, 32) ?? undefined,
  timestamp: undefined,
  cause: shown.cause ?? "",
});

/** @param {any} found @returns {import("./types.mjs").StatusReply} */
export const readStatus = ({ connection, reason = "", resyncing = false, topics }) => ({ connection, reason, resyncing, topics });
