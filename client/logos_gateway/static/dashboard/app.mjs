// The dashboard: what the gateway's live stream says of the node, drawn as it comes.
import { Glance } from "./glance.mjs";
import { byId, nameTables, say } from "./dom.mjs";
import * as format from "./format.mjs";
import { Messages } from "./messages.mjs";
import { Apps } from "./panels/apps.mjs";
import { Archive } from "./panels/archive.mjs";
import { Health } from "./panels/health.mjs";
import { Peers } from "./panels/peers.mjs";
import { Processes } from "./panels/processes.mjs";
import { Traffic } from "./panels/traffic.mjs";
import { LiveStream, Refused, ask } from "./stream.mjs";

const STALE_MS = 7_000; // three looks at the node, which come every two seconds, and some
const ABOUT_RETRY_MS = 2_000;
const TOKEN_KEY = "logos.token";

let token = sessionStorage.getItem(TOKEN_KEY) ?? "";
let about = null;
let heardMs = 0;
let state = "connecting";
let kernelLost = "";

const panels = [new Glance(), new Health(), new Traffic(), new Peers(), new Apps(), new Archive(), new Processes()];
const messages = new Messages(() => token, trouble);
const stream = new LiveStream(path, () => token, take, noteState);

/** What of the stream this token may see. */
function path() {
  const parts = ["health=true", "peers=true", "figures=true"];
  if (about?.messagingApi && about.scopes.includes("apps")) parts.push("apps=true");
  return `kernel/v1/events?${parts.join("&")}`;
}

/** @param {{kind: string, data: any}[]} events */
function take(events) {
  heardMs = performance.now();
  for (const { kind, data } of events) {
    if (kind === "kernel_lost") kernelLost = data.reason || "it does not answer";
    else if (kind === "kernel_found") kernelLost = "";
    for (const panel of panels) panel[kind]?.(data);
    messages[kind]?.(data);
  }
  // One drawing for all that has come; none while the page cannot be seen.
  drawSoon();
  showFreshness();
}

let drawing = false;
function drawSoon() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    for (const panel of panels) panel.draw();
  });
}

function noteState(next, error) {
  state = next;
  if (next === "live") {
    heardMs = performance.now();
    trouble("");
  }
  if (next === "lost") {
    if (error instanceof Refused && error.status === 401) return signIn("This token is not known to the gateway.");
    trouble(error instanceof Refused ? error.message : `The gateway cannot be reached: ${error?.message ?? "no answer"}.`);
  }
  showFreshness();
}

function showFreshness() {
  const silentMs = performance.now() - heardMs;
  const stale = heardMs > 0 && (silentMs > STALE_MS || kernelLost !== "");
  const live = byId("live");
  live.className = `live ${stale || state === "lost" ? "stale" : state === "live" && heardMs ? "fresh" : "connecting"}`;
  document.body.classList.toggle("stale", stale || state === "lost");
  // One text a state, not one a second: this is a live region, and a screen reader reads every change.
  if (kernelLost) say("live-text", `Kernel lost: ${kernelLost}`);
  else if (stale) say("live-text", `Stale for ${format.span(Math.floor(silentMs / 10_000) * 10_000 || STALE_MS)}`);
  else if (state === "lost") say("live-text", "Not connected");
  else say("live-text", state === "live" ? "Live" : "Connecting");
}

/** @param {string} text empty: there is none */
function trouble(text) {
  say("trouble", text);
  byId("trouble").hidden = !text;
}

function signIn(reason = "") {
  say("sign-in-error", token ? reason : "");
  const dialog = /** @type {HTMLDialogElement} */ (byId("sign-in"));
  if (!dialog.open) dialog.showModal();
}

byId("sign-in").addEventListener("cancel", (event) => event.preventDefault());
byId("sign-in-form").addEventListener("submit", () => {
  const input = /** @type {HTMLInputElement} */ (byId("token"));
  token = input.value.trim();
  input.value = "";
  sessionStorage.setItem(TOKEN_KEY, token);
  open();
});

async function open() {
  try {
    about = await ask("gateway/v1/about", token);
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return signIn("This token is not known to the gateway.");
    noteState("lost", error);
    setTimeout(open, ABOUT_RETRY_MS);
    return;
  }
  showAbout();
  if (!about.scopes.includes("kernel")) return signIn("This token does not have the scope kernel.");
  stream.start();
}

function showAbout() {
  document.body.classList.toggle("without-mapi", !about.messagingApi || !about.scopes.includes("apps"));
  const { network } = about;
  const shards = network?.shardCount ? `${network.shardCount} shards` : "static sharding";
  say("network", network ? `cluster ${network.cluster}${network.preset ? ` (${network.preset})` : ""} · ${shards}` : "no kernel yet");
  say("gateway-version", `logos-gateway ${about.version}`);
  for (const panel of panels) panel.about?.(about);
  const may = about.admin && about.scopes.includes("admin");
  for (const id of ["log-level", "log-set"]) /** @type {HTMLButtonElement} */ (byId(id)).disabled = !may;
  if (!may) say("log-result", about.admin ? "needs a token with the scope admin" : "needs rest-admin=true");
}

byId("log-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const level = /** @type {HTMLSelectElement} */ (byId("log-level")).value;
  try {
    const { previous } = await ask("gateway/v1/log-level", token, { method: "PUT", body: JSON.stringify({ level }) });
    const before = Object.entries(previous).map(([process, was]) => `${process} was ${was}`);
    say("log-result", `${level} is set; ${before.join(", ")}`);
  } catch (error) {
    say("log-result", `not set: ${error.message}`);
  }
});

// Which section is looked at, for the bar on top.
const sections = [...document.querySelectorAll("main section[id]")];
const looked = new Set();
const marker = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) isIntersecting ? looked.add(target) : looked.delete(target);
  const first = sections.find((section) => looked.has(section));
  for (const link of document.querySelectorAll("nav a")) {
    if (first && link.getAttribute("href") === `#${first.id}`) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}, { rootMargin: "-10% 0px -50% 0px" });
sections.forEach((section) => marker.observe(section));

byId("filter-peers").addEventListener("input", drawSoon);
document.querySelectorAll("form.controls").forEach((form) => form.addEventListener("submit", (event) => event.preventDefault()));
document.addEventListener("visibilitychange", () => document.hidden || (drawSoon(), showFreshness()));
nameTables();
setInterval(showFreshness, 1_000);
open();
