// The tiles on top: the few numbers that a person looks at first.
import { Chart } from "./charts.mjs";
import { badge, byId, el, say } from "./dom.mjs";
import * as format from "./format.mjs";
import { Rate, Series } from "./series.mjs";

/** One tile. @param {string} title @param {Chart | null} chart */
const tile = (title, chart = null) => {
  const [value, more] = [el("p", { class: "value" }, format.NOTHING), el("p", { class: "more" })];
  const element = el("div", { class: "tile" }, el("h3", {}, title), value, more, chart?.element);
  return { element, value, more };
};

const perSecond = (show) => (value) => `${show(value)}/s`;

export class Glance {
  #peers = new Map();
  #health = null;
  #figures = null;
  #apps = null;
  #messages = new Rate();
  #bytes = new Rate();
  #lag = new Series();
  #charts = {
    messages: new Chart("Messages per second", format.decimal),
    bytes: new Chart("Bytes per second", perSecond(format.bytes), { tone: "two" }),
    lag: new Chart("Event-loop lag", (ms) => format.duration(ms === null ? null : ms / 1000), { tone: "three" }),
  };
  #tiles = {
    peers: tile("Peers"),
    messages: tile("Messages per second", this.#charts.messages),
    bytes: tile("Bytes per second", this.#charts.bytes),
    lag: tile("Event-loop lag", this.#charts.lag),
    sends: tile("Pending sends"),
    archive: tile("Archived messages"),
  };

  constructor() {
    byId("tiles").append(...Object.values(this.#tiles).map(({ element }) => element));
    this.#tiles.sends.element.classList.add("with-mapi");
    this.#tiles.archive.element.hidden = true;
  }

  health(health) {
    this.#health = health;
  }

  peers({ peers }) {
    this.#peers = new Map(peers.map((peer) => [peer.peer_id, peer]));
  }

  peer({ change, peer }) {
    if (change === "left") this.#peers.delete(peer.peer_id);
    else this.#peers.set(peer.peer_id, peer);
  }

  apps(apps) {
    this.#apps = apps;
  }

  figures(figures) {
    this.#figures = figures;
    const { atMs, messages, shards } = figures;
    const sum = (values) => values.reduce((total, value) => total + value, 0);
    this.#messages.look(atMs, messages && sum(Object.values(messages)));
    this.#bytes.look(atMs, shards && sum(shards.map(({ bytes }) => bytes)));
    this.#lag.add(atMs, this.#health?.event_loop?.lag_ms ?? null);
  }

  draw() {
    const { peers, messages, bytes, lag, sends, archive } = this.#tiles;
    const all = [...this.#peers.values()];
    say(peers.value, format.count(all.length));
    const inbound = all.filter(({ direction }) => direction === "inbound").length;
    const meshed = all.filter(({ mesh }) => mesh.length).length;
    say(peers.more, `${inbound} in, ${all.length - inbound} out · ${meshed} in a mesh`);
    say(messages.value, format.decimal(this.#messages.last));
    const total = this.#figures?.messages;
    say(messages.more, total ? `${format.count(Object.values(total).reduce((a, b) => a + b, 0))} since the start` : "");
    say(bytes.value, format.bytes(this.#bytes.last));
    say(bytes.more, "of messages, all shards");
    const loop = this.#health?.event_loop;
    say(lag.value, format.duration(loop ? loop.lag_ms / 1000 : null));
    say(lag.more, loop ? `load ${format.decimal(loop.load_1m)}, fine below 1` : "");
    say(sends.value, format.count(this.#apps?.sends?.total));
    const states = Object.entries(this.#apps?.sends?.states ?? {}).filter(([, count]) => count);
    say(sends.more, states.map(([state, count]) => `${count} ${state}`).join(", ") || "none waits");
    const stored = this.#figures?.archive;
    archive.element.hidden = !stored;
    if (stored) {
      say(archive.value, format.count(stored.messages));
      say(archive.more, stored.bytes === undefined ? "" : `about ${format.bytes(stored.bytes)}`);
    }
    this.#charts.messages.draw(this.#messages.series.points);
    this.#charts.bytes.draw(this.#bytes.series.points);
    this.#charts.lag.draw(this.#lag.points);
    const state = this.#health?.state;
    if (state) byId("node-state").replaceChildren(badge(format.grade(state), format.words(state)));
  }
}
