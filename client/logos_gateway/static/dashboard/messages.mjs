// The live view of messages, on a stream of its own that runs only while it is watched.
import { byId, el, rows, say } from "./dom.mjs";
import * as format from "./format.mjs";
import { LiveStream, Refused } from "./stream.mjs";

const KEPT = 200; // rows; the oldest go
const TOPICS = 1_000; // content topics that are counted, which anyone on the network can invent
const SHOWN_TOPICS = 15;

const input = (id) => /** @type {HTMLInputElement} */ (byId(id));

export class Messages {
  #stream; #trouble;
  /** @type {Record<string, any>[]} */ #kept = [];
  /** @type {Map<string, {messages: number, bytes: number}>} */ #topics = new Map();
  #shards = [];
  #seen = 0;
  #fitting = 0;
  #lost = 0;
  #drawing = false;

  /** @param {() => string} token @param {(text: string) => void} trouble */
  constructor(token, trouble) {
    this.#trouble = trouble;
    this.#stream = new LiveStream(
      () => `kernel/v1/events?shards=${this.#shards.join(",")}${input("with-payload").checked ? "&payload=true" : ""}`,
      token,
      (events) => this.#take(events),
      (state, error) => this.#state(state, error),
    );
    byId("watch").addEventListener("click", () => (this.#stream.running ? this.#stream.stop() : this.#watch()));
    byId("clear").addEventListener("click", () => this.#clear());
    input("with-payload").addEventListener("change", () => this.#stream.running && this.#watch());
    for (const id of ["filter-topic", "filter-shard", "filter-source"]) input(id).addEventListener("input", () => this.#drawSoon());
    this.#draw();
  }

  /** The node's shards, of its own stream of events. */
  health({ shards }) {
    const taken = shards.filter(({ health }) => health !== "NOT_SUBSCRIBED").map(({ shard }) => shard);
    if (taken.join() === this.#shards.join()) return;
    this.#shards = taken;
    const select = input("filter-shard");
    const chosen = select.value;
    select.replaceChildren(el("option", { value: "" }, "all"), ...taken.map((shard) => el("option", { value: shard }, shard)));
    select.value = taken.map(String).includes(chosen) ? chosen : "";
    if (this.#stream.running) this.#watch();
  }

  #watch() {
    if (!this.#shards.length) return say("messages-summary", "The node takes part in no shard: there is nothing to watch.");
    this.#stream.start();
  }

  #state(state, error) {
    const running = state === "live" || state === "connecting";
    byId("watch").setAttribute("aria-pressed", String(running));
    say("watch", running ? "Stop" : "Watch");
    if (state === "lost") this.#trouble(error instanceof Refused ? `Messages: ${error.message}` : "The stream of messages ended; trying again.");
    else if (state === "live") this.#trouble("");
    this.#drawSoon();
  }

  #take(events) {
    for (const { kind, data } of events) {
      if (kind === "stream_loss") this.#lost += data.last === null ? 1 : data.last - data.first + 1;
      if (kind !== "message") continue;
      this.#seen += 1;
      this.#count(data);
      this.#kept.push({ ...data, key: `${data.stream} ${data.seq} ${data.messageHash}`, shard: data.stream.split("/").at(-1) });
    }
    // What does not fit the filters makes no room for itself.
    const fits = this.#fits();
    while (this.#kept.length > KEPT * 4) {
      const at = this.#kept.findIndex((message) => !fits(message));
      this.#kept.splice(Math.max(0, at), 1);
    }
    this.#drawSoon();
  }

  #count({ contentTopic, size }) {
    const known = this.#topics.get(contentTopic);
    if (known) {
      known.messages += 1;
      known.bytes += size;
    } else if (this.#topics.size < TOPICS) this.#topics.set(contentTopic, { messages: 1, bytes: size });
  }

  #fits() {
    const [topic, shard, source] = ["filter-topic", "filter-shard", "filter-source"].map((id) => input(id).value.trim());
    return (message) =>
      (!topic || message.contentTopic.includes(topic)) && (!shard || message.shard === shard) && (!source || message.source === source);
  }

  #clear() {
    [this.#kept, this.#seen, this.#lost] = [[], 0, 0];
    this.#topics.clear();
    this.#draw();
  }

  #drawSoon() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#draw();
    });
  }

  #draw() {
    const fitting = this.#kept.filter(this.#fits()).slice(-KEPT).reverse();
    rows(
      byId("message-rows"), fitting, ({ key }) => key,
      (message) => [
        el("time", { class: "mono nowrap" }, format.clock(message.timeNs / 1e6)),
        el("span", { class: "mono wrap" }, message.contentTopic),
        message.shard,
        message.source === "self" ? "this node" : message.source,
        format.bytes(message.size),
        detailsOf(message),
      ],
      this.#stream?.running ? "Nothing that fits has come yet." : "Watch to see messages as they come.",
    );
    if (this.#stream.running || this.#seen) {
      const lost = this.#lost ? `, ${format.count(this.#lost)} passed over` : "";
      say("messages-summary", `${format.count(this.#seen)} seen${lost}; the last ${fitting.length} that fit are shown`);
    }
    const busiest = [...this.#topics].sort(([, one], [, other]) => other.messages - one.messages).slice(0, SHOWN_TOPICS);
    rows(
      byId("busiest-rows"), busiest, ([topic]) => topic,
      ([topic, { messages, bytes }]) => [el("span", { class: "mono wrap" }, topic), format.count(messages), format.bytes(bytes)],
      "Nothing has been counted.",
    );
  }
}

/** Made once for a message: drawing again must not close what a reader has opened. */
const detailsOf = (message) => {
  message.details ??= el(
    "details", {},
    el("summary", { title: message.messageHash }, format.short(message.messageHash, 10, 6)),
    el("p", { class: "mono wrap" }, message.messageHash),
    el("p", {}, `sender's time ${message.timestamp ? new Date(message.timestamp / 1e6).toISOString() : "not given"}${message.ephemeral ? ", ephemeral" : ""}`),
    message.payload === undefined ? el("p", { class: "quiet" }, "payload not fetched") : payloadOf(message.payload),
  );
  return message.details;
};

const PREVIEW = 2_048;

/** Text where it is text, else hex. @param {string} base64 */
const payloadOf = (base64) => {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const head = bytes.subarray(0, PREVIEW);
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(head, { stream: true });
    if (/[\u0000-\u0008\u000e-\u001f]/.test(text)) throw new TypeError("not text");
  } catch {
    text = [...head].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  }
  return el("pre", {}, bytes.length > PREVIEW ? `${text}\n… ${bytes.length - PREVIEW} more bytes` : text);
};
