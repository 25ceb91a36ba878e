// Clients of Logos Delivery's processes.
export { LogosError } from "./errors.mjs";
export { MessagingClient } from "./messaging.mjs";

/** @typedef {import("./contract.mjs").Event} Event */
/** @typedef {import("./contract.mjs").Integer} Integer */
/** @typedef {import("./contract.mjs").MessageReceived} MessageReceived */
/** @typedef {import("./contract.mjs").PendingSend} PendingSend */
/** @typedef {import("./contract.mjs").StatusReply} Status */
/** @typedef {import("./messaging.mjs").ConnectOptions} ConnectOptions */
/** @typedef {import("./stream.mjs").Position} Position */
