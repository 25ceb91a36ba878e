// A reader's position in one of a kernel's streams, and what to do with each event; no I/O (ipc_schema/SPEC.md, §3.1).
import { same } from "./bytes.mjs";

/** @template {Place} T @typedef {import("./held.mjs").HeldEvents<T>} HeldEvents */
/** @typedef {{instance: Uint8Array, epoch: Uint8Array, seq: number}} Place */
/** @typedef {{event: "stream_loss", stream: string, first: number, last: number | null, reason: string}} Loss */
/** `keep` the event; `skip` it; `catch up`: skip it, something before it is missing. @typedef {"keep" | "skip" | "catch up"} Verdict */

const RESTARTED = "the kernel restarted this stream";

export class StreamCursor {
  behind = false; // a replay is under way: live events are held, or left to it
  heard = false; // a heartbeat has come: the subscription is in force
  last = 0; // the last seq kept
  highest = 0; // the highest one known to exist
  /** Of the epoch that is followed; empty before the first event. @type {Uint8Array} */ epoch = new Uint8Array();
  /** @type {Uint8Array | null} */ #instance = null;
  /** @type {Loss[]} */ #losses = [];

  /** @param {string} stream its name @param {HeldEvents<any>} held live events that wait for the end of a replay */
  constructor(stream, held) {
    this.stream = stream;
    this.held = held;
  }

  /** The held events that follow the last one kept: nothing is missing before them. */
  takeHeld() {
    return this.held.take(this.#instance, this.epoch, this.last);
  }

  /** Losses since the last call. */
  takeLosses() {
    const losses = this.#losses;
    this.#losses = [];
    return losses;
  }

  /** Start behind `last`, unless a stream is followed already. @param {Uint8Array} instance @param {Uint8Array} epoch @param {number} last */
  start(instance, epoch, last) {
    if (!this.#instance) this.#follow(instance, epoch, last);
  }

  /** Take a live event. @param {Place} place @returns {Verdict} */
  event(place) {
    this.start(place.instance, place.epoch, Math.max(0, place.seq - 1));
    return this.behind ? "skip" : this.replayed(place);
  }

  /** Take an event of a replay. @param {Place} place @returns {Verdict} */
  replayed(place) {
    this.#meet(place);
    if (place.seq <= this.last) return "skip";
    this.highest = Math.max(this.highest, place.seq);
    if (place.seq > this.last + 1) return "catch up";
    this.last = place.seq;
    return "keep";
  }

  /** Take a heartbeat: events up to its seq exist, and those that are not here are missing. @param {Place} place @returns {Verdict} */
  heartbeat(place) {
    this.heard = true;
    this.start(place.instance, place.epoch, place.seq);
    if (this.behind) return "skip";
    this.#meet(place);
    if (place.seq <= this.last) return "skip";
    this.highest = Math.max(this.highest, place.seq);
    return "catch up";
  }

  /** Follow another epoch from its first event. How many events of the old one are lost is unknown. @param {Uint8Array} instance @param {Uint8Array} epoch */
  beginAgain(instance, epoch) {
    this.#losses.push({ event: "stream_loss", stream: this.stream, first: this.last + 1, last: null, reason: RESTARTED });
    this.#follow(instance, epoch, 0);
  }

  /** Events up to `last` are lost. @param {number} last @param {string} reason */
  giveUp(last, reason) {
    if (last <= this.last) return;
    this.#losses.push({ event: "stream_loss", stream: this.stream, first: this.last + 1, last, reason });
    this.jump(last);
  }

  /** A snapshot replaces events up to `last`. @param {number} last */
  jump(last) {
    this.last = Math.max(this.last, last);
    this.highest = Math.max(this.highest, last);
  }

  /** @param {Place} place */
  #meet({ instance, epoch }) {
    if (!same(this.#instance, instance) || !same(this.epoch, epoch)) this.beginAgain(instance, epoch);
  }

  /** @param {Uint8Array} instance @param {Uint8Array} epoch @param {number} last */
  #follow(instance, epoch, last) {
    this.#instance = instance;
    this.epoch = epoch;
    this.last = this.highest = last;
  }
}
