// Clients of Logos Delivery's processes.
export { LogosError } from "./errors.mjs";
export { AppEvent } from "./events.mjs";
export { MessagingClient } from "./messaging.mjs";
