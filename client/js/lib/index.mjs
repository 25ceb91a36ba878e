// Clients of Logos Delivery's processes.
export { LogosError } from "./errors.mjs";
export { KernelClient } from "./kernel.mjs";
export { MessagingClient } from "./messaging.mjs";

/** @typedef {import("./types.mjs").Event} Event */
/** @typedef {import("./types.mjs").Integer} Integer */
/** @typedef {import("./types.mjs").MessageReceived} MessageReceived */
/** @typedef {import("./types.mjs").PendingSend} PendingSend */
/** @typedef {import("./types.mjs").StatusReply} Status */
/** @typedef {import("./messaging.mjs").ConnectOptions} ConnectOptions */
/** @typedef {import("./stream.mjs").Position} Position */
/** @typedef {import("./feed.mjs").KernelFeed} KernelFeed */
/** @typedef {import("./kernel-types.mjs").KernelEvent} KernelEvent */
/** @typedef {import("./kernel-types.mjs").KernelMessage} KernelMessage */
/** @typedef {import("./kernel.mjs").FeedOptions} FeedOptions */
/** @typedef {import("./kernel.mjs").KernelOptions} KernelOptions */
/** @typedef {import("./kernel.mjs").StorePage} StorePage */
