// How an app gets its events: one after another, by iteration or by callbacks.
import { EVENT_KINDS } from "./contract.mjs";
import { LogosError } from "./errors.mjs";

/** @typedef {import("./events.mjs").AppEvent} AppEvent */
/** @typedef {(event: AppEvent) => unknown} Callback */

const SEGMENT = "channel_segment_received";

export class EventConsumer {
  /** @type {import("./stream.mjs").AppStream} */ #stream;
  /** @type {() => void} */ #settle;
  /** @type {(event: AppEvent) => Promise<boolean>} */ #openSegment;
  /** @type {(error: unknown, event: AppEvent) => void} */ #onError;
  /** @type {Map<string, Callback[]>} */ #callbacks = new Map();
  #wake = () => {};
  #iterating = false;
  #dispatching = false;
  #taking = false;
  #ended = false;
  #opening = false;
  /** @type {Promise<unknown>} */ #dispatcher = Promise.resolve();

  /**
   * `settle()` is called whenever an event was handled: credit and ack may be due. `openSegment(event)` decrypts a channel's
   * segment where the app has hooks for it; false: the app gets it. `onError(error, event)` gets what a callback throws.
   * @param {import("./stream.mjs").AppStream} stream
   * @param {{settle: () => void, openSegment?: (event: AppEvent) => Promise<boolean>,
   *   onError: (error: unknown, event: AppEvent) => void}} handlers
   */
  constructor(stream, { settle, openSegment = async () => false, onError }) {
    this.#stream = stream;
    this.#settle = settle;
    this.#openSegment = openSegment;
    this.#onError = onError;
  }

  /** Something was put into the stream. */
  wake() {
    this.#wake();
  }

  /** Nothing comes any more behind what is queued. */
  end() {
    this.#ended = true;
    this.#wake();
  }

  /**
   * The next event that no callback took; null at the end. The event before it counts as handled.
   * @param {number} [timeout] ms; rejects with `deadline_exceeded`
   * @returns {Promise<AppEvent | null>}
   */
  async next(timeout) {
    if (this.#taking) throw new Error("the next event is being waited for already");
    this.#taking = true;
    try {
      if (!this.#iterating) {
        this.#iterating = true;
        this.#wake();
        await this.#dispatcher;
      }
      const deadline = timeout === undefined ? Infinity : performance.now() + timeout;
      for (;;) {
        const event = this.#takeNow();
        if (!event) {
          if (this.#ended) return null;
          if (!(await this.#waitUntil(deadline))) {
            throw new LogosError("deadline_exceeded", `no event within ${timeout} ms`);
          }
          continue;
        }
        if (event.event === SEGMENT && (await this.#opened(event))) continue;
        const callbacks = this.#callbacksFor(event);
        if (!callbacks.length) return event;
        await this.#call(callbacks, event);
      }
    } finally {
      this.#taking = false;
    }
  }

  /** What `next` gives, as an iterator. @returns {AsyncIterator<AppEvent, undefined>} */
  events() {
    return {
      next: async () => {
        const event = await this.next();
        return event ? { value: event, done: false } : { value: undefined, done: true };
      },
    };
  }

  /** Whether a segment was opened, so that the app does not get it. @param {AppEvent} event */
  async #opened(event) {
    this.#opening = true;
    try {
      return await this.#openSegment(event);
    } finally {
      this.#opening = false;
    }
  }

  /** Whether the event in hand is a segment that is being given back, and not the app's. */
  get opening() {
    return this.#opening;
  }

  #takeNow() {
    const event = this.#stream.take();
    this.#settle();
    if (event?.event === "taken_over") this.#ended = true;
    return event;
  }

  /** Whether there is something before `deadline`. @param {number} deadline @returns {Promise<boolean>} */
  #waitUntil(deadline) {
    return new Promise((resolve) => {
      const left = deadline - performance.now();
      const timer = left === Infinity ? undefined : setTimeout(() => resolve(false), Math.max(0, left));
      this.#wake = () => (clearTimeout(timer), resolve(true));
    });
  }

  /**
   * Call a function with each event of a kind (`"*"`: of all kinds); returns what undoes it.
   * @param {string} kind
   * @param {Callback} callback
   */
  on(kind, callback) {
    if (kind !== "*" && !EVENT_KINDS.includes(kind)) {
      throw new TypeError(`no kind of event: ${JSON.stringify(kind)}; there are ${EVENT_KINDS.join(", ")} and *`);
    }
    if (typeof callback !== "function") throw new TypeError("a callback is a function");
    this.#callbacks.set(kind, [...(this.#callbacks.get(kind) ?? []), callback]);
    if (!this.#dispatching && !this.#iterating) {
      this.#dispatching = true;
      this.#dispatcher = this.#dispatch();
    }
    return () => {
      const left = [...(this.#callbacks.get(kind) ?? [])];
      const at = left.indexOf(callback);
      if (at >= 0) left.splice(at, 1);
      this.#callbacks.set(kind, left);
    };
  }

  /** Callbacks without an iteration: events that none of them wants are passed over. */
  async #dispatch() {
    await null; // not in the turn of who adds the callback: there may be a second one
    while (!this.#iterating) {
      const event = this.#takeNow();
      if (event?.event === SEGMENT && (await this.#opened(event))) continue;
      if (event) await this.#call(this.#callbacksFor(event), event);
      else if (this.#ended) return;
      else await this.#waitUntil(Infinity);
    }
    this.#stream.handled();
    this.#settle();
  }

  /** @param {AppEvent} event */
  #callbacksFor(event) {
    return [...(this.#callbacks.get(event.event) ?? []), ...(this.#callbacks.get("*") ?? [])];
  }

  /** @param {Callback[]} callbacks @param {AppEvent} event */
  async #call(callbacks, event) {
    for (const callback of callbacks) {
      try {
        await callback(event);
      } catch (error) {
        this.#onError(error, event); // the app's fault, not the stream's: the next event comes
      }
    }
  }
}
