// The connected peers.
import { byId, el, rows, say } from "../dom.mjs";
import * as format from "../format.mjs";

const shardOf = (topic) => topic.split("/").at(-1);

export class Peers {
  #peers = new Map();

  #put(peer) {
    // When it came, by our own clock: how long it has been here grows on between two looks.
    this.#peers.set(peer.peer_id, { ...peer, sinceMs: performance.now() - peer.connected_ms });
  }

  peers({ peers }) {
    this.#peers.clear();
    peers.forEach((peer) => this.#put(peer));
  }

  peer({ change, peer }) {
    if (change === "left") this.#peers.delete(peer.peer_id);
    else this.#put(peer);
  }

  draw() {
    const wanted = /** @type {HTMLInputElement} */ (byId("filter-peers")).value.trim().toLowerCase();
    const all = [...this.#peers.values()].sort((one, other) => one.sinceMs - other.sinceMs);
    const text = (peer) => [peer.peer_id, peer.agent, peer.address, peer.origin, ...peer.protocols].join(" ").toLowerCase();
    const shown = wanted ? all.filter((peer) => text(peer).includes(wanted)) : all;
    rows(
      byId("peer-rows"), shown, ({ peer_id }) => peer_id,
      (peer) => [
        el("span", { class: "mono nowrap", title: `${peer.peer_id}\n${peer.protocols.join("\n")}` }, format.short(peer.peer_id)),
        peer.agent || format.NOTHING,
        peer.origin || format.NOTHING,
        peer.direction,
        format.span(performance.now() - peer.sinceMs),
        peer.score === undefined || peer.score === null ? format.NOTHING : peer.score.toFixed(2),
        peer.mesh.length ? `shard ${peer.mesh.map(shardOf).sort((a, b) => a - b).join(", ")}` : format.NOTHING,
        el("span", { class: "mono wrap" }, peer.address),
      ],
      all.length ? "No peer fits." : "No peer is connected.",
    );
    say("peers-summary", wanted ? `${shown.length} of ${all.length} connected` : `${all.length} connected, the longest first`);
  }
}
