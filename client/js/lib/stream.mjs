// The client's end of an app's stream, without I/O: what to keep, what was seen before, how much credit and which ack
// are due (ipc_schema/SPEC.md, §4.3).
//
// The queue is bounded by the credit given to the server: what was received and not yet handled, plus what the server
// may still send, is at most the window, and one event, since one may overdraw.
import { AppEvent } from "./events.mjs";
import { same } from "./bytes.mjs";

/** @typedef {{stream_id: Uint8Array, seq: number}} Position */
/** @typedef {{event: AppEvent, cost: number, position: Position | null, local: boolean}} Queued */

const MAX_LOCAL_EVENTS = 64; // events the client itself makes, while the app does not look: a server that flaps

export class AppStream {
  counters = { received: 0, duplicates: 0, garbage: 0, unknown: 0, missing: 0, local_dropped: 0 };
  /** @type {Uint8Array | null} */ streamId = null;
  lastSeq = 0; // the last one queued
  queuedBytes = 0; // of events that wait here or are in the app's hands
  #window;
  /** @type {Queued[]} */ #queue = [];
  #head = 0;
  #local = 0;
  /** @type {Queued | null} */ #inHand = null;
  #received = 0; // bytes since the last hello
  #granted = 0; // credit since the last hello
  /** @type {Position | null} */ #handled = null;
  /** @type {Position | null} */ #acked = null;

  /** @param {number} window bytes of events that may wait here or be on their way */
  constructor(window) {
    this.#window = window;
  }

  /** What to grant in a hello: the window, less what still waits here. */
  openingCredit() {
    return Math.max(0, this.#window - this.queuedBytes);
  }

  /**
   * A hello that granted `credit` was accepted. Returns where the stream before it ended when this is another one.
   * @param {Uint8Array} id
   * @param {number} acked
   * @param {number} credit
   * @returns {Position | null}
   */
  greeted(id, acked, credit) {
    this.opened(credit);
    return this.follow(id, acked);
  }

  /** A connection was opened that granted `credit`. @param {number} credit */
  opened(credit) {
    this.#received = 0;
    this.#granted = credit;
  }

  /**
   * From here on it is this stream, of which everything up to `acked` is done with. Returns where the one before it ended
   * when this is another one.
   * @param {Uint8Array} id
   * @param {number} acked
   * @returns {Position | null}
   */
  follow(id, acked) {
    let lost = null;
    if (!same(this.streamId, id)) {
      if (this.streamId) lost = { stream_id: this.streamId, seq: this.lastSeq };
      this.streamId = id;
      this.lastSeq = acked;
    }
    this.lastSeq = Math.max(this.lastSeq, acked);
    this.#acked = { stream_id: id, seq: acked };
    return lost;
  }

  /** Handle frames that do not form an event. */
  garbage() {
    this.counters.garbage += 1;
  }

  /**
   * Take an event into the queue. Null: there was nothing for the app in it.
   * @param {Record<string, any>} decoded its fields, `event` the kind
   * @param {number} cost what it takes of the credit
   * @returns {AppEvent | null}
   */
  receive(decoded, cost) {
    if (decoded.event === "heartbeat") return null;
    const event = new AppEvent(decoded);
    if (event.event === "taken_over") {
      this.#put(event, 0, null);
      return event;
    }
    this.#received += cost;
    if (!same(this.streamId, decoded.stream_id)) {
      this.garbage();
      return null;
    }
    const { stream_id, seq } = decoded;
    if (seq <= this.lastSeq) {
      this.counters.duplicates += 1; // at least once: a repeat
      return null;
    }
    const told = event.event === "events_dropped" && decoded.first <= this.lastSeq + 1;
    if (seq !== this.lastSeq + 1 && !told) this.#reportMissing(decoded);
    this.lastSeq = seq;
    const position = { stream_id, seq };
    if (event.event === "unknown") {
      this.counters.unknown += 1;
      this.#handledWithTheLast(position);
      return null;
    }
    this.counters.received += 1;
    this.#put(event, cost, position);
    return event;
  }

  /** Nothing to show, but to be acknowledged in its turn: together with the event before it. @param {Position} position */
  #handledWithTheLast(position) {
    if (this.length) this.#queue[this.#queue.length - 1].position = position;
    else if (this.#inHand) this.#inHand.position = position;
    else this.#handled = position;
  }

  /** The server skipped events without saying so: the app must know all the same. @param {any} behind */
  #reportMissing({ stream_id, seq, time_ns }) {
    const [first, last] = [this.lastSeq + 1, seq - 1];
    this.counters.missing += seq - first;
    const gap = { event: "events_dropped", stream_id, seq: last, time_ns, first, last, reason: "never received" };
    this.#put(new AppEvent(gap), 0, null);
  }

  /** Queue an event of the client's own. If they are not read for long, the oldest are dropped. @param {AppEvent} event */
  putLocal(event) {
    if (this.#local >= MAX_LOCAL_EVENTS) {
      const oldest = this.#queue.findIndex((queued, index) => index >= this.#head && queued.local);
      this.#queue.splice(oldest, 1);
      this.#local -= 1;
      this.counters.local_dropped += 1;
    }
    this.#local += 1;
    this.#put(event, 0, null, true);
  }

  /** @param {AppEvent} event @param {number} cost @param {Position | null} position */
  #put(event, cost, position, local = false) {
    this.#queue.push({ event, cost, position, local });
    this.queuedBytes += cost;
  }

  get length() {
    return this.#queue.length - this.#head;
  }

  /** The next event, which is then in the app's hands; the one before it counts as handled. */
  take() {
    this.handled();
    if (!this.length) return null;
    const queued = (this.#inHand = this.#queue[this.#head]);
    this.#head += 1;
    if (this.#head > 256 && this.#head * 2 > this.#queue.length) {
      this.#queue.splice(0, this.#head); // a shift for each event would cost the length of the queue
      this.#head = 0;
    }
    if (queued.local) this.#local -= 1;
    return queued.event;
  }

  /** The app is done with the event in its hands: its bytes may be granted again. */
  handled() {
    const queued = this.#inHand;
    if (!queued) return;
    this.#inHand = null;
    this.queuedBytes -= queued.cost;
    if (queued.position) this.#handled = queued.position;
  }

  /** The last position handled. */
  get position() {
    return this.#handled;
  }

  /** The new total to grant, once a quarter of the window can be given back; else null. */
  creditDue() {
    const total = this.#received + Math.max(0, this.#window - this.queuedBytes);
    return total - this.#granted >= Math.max(1, Math.floor(this.#window / 4)) ? total : null;
  }

  /** `creditDue` was sent. @param {number} total */
  granted(total) {
    this.#granted = total;
  }

  /** What was handled and is not acknowledged yet; null when there is nothing. */
  ackDue() {
    const handled = this.#handled;
    if (!handled || !same(this.streamId, handled.stream_id)) return null;
    return this.#acked && handled.seq <= this.#acked.seq ? null : handled;
  }

  /** `position` was acknowledged. @param {Position} position */
  acked(position) {
    if (same(this.streamId, position.stream_id) && (!this.#acked || position.seq > this.#acked.seq)) {
      this.#acked = position;
    }
  }
}
