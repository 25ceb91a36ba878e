// The client of a Messaging API for browsers, over the WebSocket of a node's gateway.
export { LogosError } from "../errors.mjs";
export { MessagingClient } from "./messaging.mjs";

/** @typedef {import("./types.mjs").Event} Event */
/** @typedef {import("./types.mjs").Integer} Integer */
/** @typedef {import("./types.mjs").MessageReceived} MessageReceived */
/** @typedef {import("./types.mjs").PendingSend} PendingSend */
/** @typedef {import("./types.mjs").StatusReply} Status */
/** @typedef {import("./messaging.mjs").ConnectOptions} ConnectOptions */
/** @typedef {import("../stream.mjs").Position} Position */
