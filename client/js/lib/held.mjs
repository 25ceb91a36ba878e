// Live events that come while earlier ones are replayed; no I/O (ipc_schema/SPEC.md, §3.2).
import { same } from "./bytes.mjs";

/** @typedef {import("./cursor.mjs").Place} Place */

/**
 * The newest run of events without a gap, within `maxBytes`: beyond it, it begins again. Without them each replay would miss
 * what comes before its answer, and a busy stream would be replayed on and on.
 * @template {Place} Event
 */
export class HeldEvents {
  /** Approximate memory. */ bytes = 0;
  #maxBytes; #costOf;
  /** @type {Event[]} */ #events = [];

  /** @param {number} maxBytes @param {(event: Event) => number} costOf */
  constructor(maxBytes, costOf) {
    this.#maxBytes = maxBytes;
    this.#costOf = costOf;
  }

  /** Hold an event of the stream. @param {Event} event @returns {number} how many are dropped for it */
  add(event) {
    const last = this.#events.at(-1);
    const follows = last && same(last.instance, event.instance) && same(last.epoch, event.epoch) && event.seq === last.seq + 1;
    const dropped = follows && this.bytes < this.#maxBytes ? 0 : this.clear();
    this.#events.push(event);
    this.bytes += this.#costOf(event);
    return dropped;
  }

  /**
   * Those that follow `last` without a gap, none of which is held any more. Empty: there are none.
   * @param {Uint8Array | null} instance @param {Uint8Array} epoch @param {number} last
   */
  take(instance, epoch, last) {
    const [first] = this.#events;
    if (!first || !same(first.instance, instance) || !same(first.epoch, epoch) || first.seq > last + 1) return [];
    const found = this.#events.filter(({ seq }) => seq > last);
    if (found.length) this.clear();
    return found;
  }

  /** Drop all of them. @returns {number} how many */
  clear() {
    const dropped = this.#events.length;
    this.#events = [];
    this.bytes = 0;
    return dropped;
  }
}
