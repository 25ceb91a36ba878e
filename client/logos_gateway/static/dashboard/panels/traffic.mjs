// The shards: health, mesh size over time, messages and bytes per second.
import { Chart } from "../charts.mjs";
import { badge, byId, el, rows, say } from "../dom.mjs";
import * as format from "../format.mjs";
import { Rate, Series } from "../series.mjs";

const withChart = (chart) => {
  const value = el("b", {}, format.NOTHING);
  return { chart, value, element: el("div", { class: "with-chart" }, value, chart.element) };
};

class Shard {
  mesh = new Series();
  messages = new Rate();
  bytes = new Rate();

  constructor({ shard }) {
    const name = `shard ${shard}`;
    this.meshCell = withChart(new Chart(`Mesh peers of ${name}`, format.count, { height: 28, tone: "three" }));
    this.messagesCell = withChart(new Chart(`Messages per second of ${name}`, format.decimal, { height: 28 }));
    this.bytesCell = withChart(new Chart(`Bytes per second of ${name}`, format.bytes, { height: 28, tone: "two" }));
  }

  draw() {
    const filter = this.health.filter_peers ? ` + ${this.health.filter_peers} filter` : "";
    say(this.meshCell.value, `${this.health.mesh_peers} of ${this.health.connected_peers}${filter}`);
    say(this.messagesCell.value, format.decimal(this.messages.last));
    say(this.bytesCell.value, format.bytes(this.bytes.last));
    this.meshCell.chart.draw(this.mesh.points);
    this.messagesCell.chart.draw(this.messages.series.points);
    this.bytesCell.chart.draw(this.bytes.series.points);
  }
}

export class Traffic {
  /** @type {Map<number, Shard>} */ #shards = new Map();
  #health = null;

  health(health) {
    this.#health = health;
    const subscribed = health.shards.filter(({ health: state }) => state !== "NOT_SUBSCRIBED");
    const numbers = new Set(subscribed.map(({ shard }) => shard));
    for (const one of subscribed) {
      if (!this.#shards.has(one.shard)) this.#shards.set(one.shard, new Shard(one));
      this.#shards.get(one.shard).health = one;
    }
    for (const shard of this.#shards.keys()) if (!numbers.has(shard)) this.#shards.delete(shard);
  }

  figures({ atMs, shards }) {
    const totals = new Map((shards ?? []).map((one) => [one.shard, one]));
    for (const [number, shard] of this.#shards) {
      const total = totals.get(number);
      shard.mesh.add(atMs, shard.health.mesh_peers);
      shard.messages.look(atMs, total?.messages);
      shard.bytes.look(atMs, total?.bytes);
    }
  }

  draw() {
    if (!this.#health) return;
    const shards = [...this.#shards.values()].sort((one, other) => one.health.shard - other.health.shard);
    rows(
      byId("shards"), shards, ({ health }) => String(health.shard),
      (shard) => {
        shard.draw();
        const { health } = shard;
        return [
          el("span", { class: "mono" }, health.pubsub_topic),
          badge(format.grade(health.health), format.words(health.health)),
          shard.meshCell.element, shard.messagesCell.element, shard.bytesCell.element,
        ];
      },
      "The node takes part in no shard: no app has subscribed to anything on one.",
    );
  }
}
