// A kernel's event streams as one sequence: gap detection, replay, bounded memory (ipc_schema/SPEC.md, §3.1 and §3.2).
import { Subscriber } from "zeromq";
import { StreamCursor } from "./cursor.mjs";
import { LogosError } from "./errors.mjs";
import { AppEvent } from "./events.mjs";
import { decodeKernelEvent, otherVersion } from "./frames.mjs";
import { HeldEvents } from "./held.mjs";
import { Signal } from "./signal.mjs";

/** @typedef {import("./kernel-types.mjs").KernelEvent} KernelEvent */

const HEALTH = "p";
const PEERS = "n";
const RETRY_MS = 200;
const RETRY_MAX_MS = 5_000;
const OVERHEAD = 512; // about the memory of an event besides its payload, so that many small ones count too
const SUBSCRIBE_MS = 5_000;
const MISSED = 3; // heartbeats, until the kernel is asked whether it is there
const OPTIONS = {
  linger: 0,
  receiveHighWaterMark: 2_000,
  reconnectInterval: 50,
  reconnectMaxInterval: 2_000,
  handshakeInterval: 5_000,
  maxMessageSize: 64 << 20,
};

const now = () => performance.now();
/** @param {StreamCursor} cursor */
const isMessages = ({ stream }) => stream !== HEALTH && stream !== PEERS;
/** @param {Record<string, any>} event */
const costOf = (event) => OVERHEAD + (event.event === "message" ? event.payload.length : 0);

/**
 * Events of some of a kernel's streams, each stream in order. Made by `KernelClient.events`.
 *
 * A gap in a message stream is filled by a replay, or reported as a `stream_loss`. What a slow reader has no room for is
 * left in the kernel's ring and replayed once there is: memory stays bounded here.
 */
export class KernelFeed {
  /** Of events. `skipped`: live ones left to a replay; `replays`: replay requests. */
  counters = { received: 0, skipped: 0, replays: 0, garbage: 0 };
  #host; #shards; #maxBytes; #lease;
  /** @type {Map<string, StreamCursor>} by topic */ #cursors = new Map();
  /** @type {KernelEvent[]} */ #queue = [];
  #head = 0;
  #queuedBytes = 0;
  #full = false;
  #arrived = new Signal();
  #room = new Signal();
  #begun = new Signal();
  /** @type {Subscriber | null} */ #socket = null;
  #endpoint = "";
  #filling = false;
  #closed = false;
  #heard = now(); // something came on the socket
  /** @type {NodeJS.Timeout | undefined} */ #watch;
  #silent = false; // the kernel was found to be down by its silence

  /**
   * Not for apps: see `KernelClient.events`.
   * @param {import("./kernel.mjs").FeedHost} host
   * @param {{streams: string[], shards: number[], lease: boolean, maxBytes: number}} options
   */
  constructor(host, { streams, shards, lease, maxBytes }) {
    this.#host = host;
    this.#shards = lease ? shards : [];
    this.#lease = lease;
    this.#maxBytes = maxBytes;
    const heldBytes = maxBytes / (2 * streams.length);
    for (const stream of streams) {
      this.#cursors.set(`${stream}\0`, new StreamCursor(stream, new HeldEvents(heldBytes, costOf)));
    }
  }

  /** Lease, subscribe, and wait until the subscriptions are in force. @param {Record<string, import("./kernel.mjs").After>} after */
  async open(after) {
    try {
      if (this.#shards.length) {
        for (const { stream, epoch, last } of await this.#host.hold(this.#shards)) {
          const from = after[stream] ?? { epoch, seq: last };
          this.#cursors.get(`${stream}\0`)?.start(this.#host.instance, from.epoch, from.seq);
        }
      } else this.#shards = [];
      this.moved();
      const deadline = now() + SUBSCRIBE_MS;
      while (this.#unheard().length && !this.#closed) {
        if (!(await this.#begun.wait(deadline - now()))) {
          throw new LogosError("not_ready", `no heartbeat on ${this.#unheard().join(", ")}`);
        }
      }
      this.#heard = now();
      if (this.#beating().length) this.#watch = setTimeout(() => this.#lookAfter(), this.#host.heartbeatMs).unref();
    } catch (error) {
      await this.close();
      throw error;
    }
    return this;
  }

  /** Streams that must have heartbeats: a shard that we do not lease may be silent. */
  #beating() {
    return [...this.#cursors.values()].filter((cursor) => this.#lease || !isMessages(cursor));
  }

  #unheard() {
    return this.#beating().filter(({ heard }) => !heard).map(({ stream }) => stream);
  }

  /** The kernel's events may be at another endpoint now. */
  moved() {
    if (this.#closed || this.#endpoint === this.#host.eventsEndpoint) return;
    this.#socket?.close();
    this.#endpoint = this.#host.eventsEndpoint;
    this.#socket = new Subscriber(OPTIONS);
    this.#socket.connect(this.#endpoint);
    this.#socket.subscribe(...[...this.#cursors.keys()].map((topic) => Buffer.from(topic)));
    this.#read(this.#socket);
  }

  /** Unsubscribe and release the leases. */
  async close() {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#watch);
    this.#socket?.close();
    for (const signal of [this.#arrived, this.#room, this.#begun]) signal.fire();
    await this.#host.drop(this, this.#shards);
  }

  [Symbol.for("nodejs.asyncDispose")]() {
    return this.close();
  }

  /** About the memory of the events that wait here. */
  get bufferedBytes() {
    return [...this.#cursors.values()].reduce((bytes, { held }) => bytes + held.bytes, this.#queuedBytes);
  }

  // -- events out ------------------------------------------------------------------------------------------------------

  /**
   * The next event; null when none can come any more.
   * @param {number} [timeout] ms; rejects with `deadline_exceeded` when there is none in that time
   * @returns {Promise<KernelEvent | null>}
   */
  async nextEvent(timeout) {
    const deadline = timeout === undefined ? undefined : now() + timeout;
    while (this.#head === this.#queue.length) {
      if (this.#closed) return null;
      if (!(await this.#arrived.wait(deadline && deadline - now()))) {
        throw new LogosError("deadline_exceeded", `no event within ${timeout} ms`);
      }
    }
    const event = this.#queue[this.#head++];
    if (this.#head > 256 && this.#head * 2 > this.#queue.length) {
      this.#queue.splice(0, this.#head); // a shift for each event would cost the length of the queue
      this.#head = 0;
    }
    this.#queuedBytes -= costOf(event);
    if (this.#full && this.#queuedBytes <= this.#maxBytes / 2) {
      this.#full = false;
      this.#room.fire();
    }
    return event;
  }

  /** @returns {AsyncIterator<KernelEvent, undefined>} */
  [Symbol.asyncIterator]() {
    return {
      next: async () => {
        const value = await this.nextEvent();
        return value ? { value, done: false } : { value: undefined, done: true };
      },
    };
  }

  /** @param {Record<string, any>} fields */
  #put(fields) {
    this.#queue.push(/** @type {any} */ (new AppEvent(fields)));
    this.#queuedBytes += costOf(fields);
    if (this.#queuedBytes >= this.#maxBytes) this.#full = true;
    this.#arrived.fire();
  }

  /** An event of the client's own. A kernel that flaps while the app does not look fills no memory. @param {Record<string, any>} fields */
  #putLocal(fields) {
    if (!this.#closed && this.#queuedBytes <= 2 * this.#maxBytes) this.#put(fields);
  }

  /** The connection for requests is lost. @param {string} reason */
  lost(reason) {
    if (!this.#silent) this.#putLocal({ event: "kernel_lost", reason });
    this.#silent = false;
  }

  /** It is back. @param {boolean} restarted */
  found(restarted) {
    this.moved();
    this.#heard = now();
    this.#silent = false;
    this.#putLocal({ event: "kernel_found", instance: this.#host.instance, restarted });
  }

  // -- events in -------------------------------------------------------------------------------------------------------

  /** @param {Subscriber} socket */
  async #read(socket) {
    for await (const frames of socket) this.#receive(/** @type {Buffer[]} */ (frames));
  }

  /** @param {Buffer[]} frames */
  #receive(frames) {
    if (this.#closed) return;
    const cursor = this.#cursors.get(frames[0].toString("latin1"));
    const event = cursor && decoded(frames);
    if (!event) {
      this.counters.garbage += 1;
      const version = cursor && otherVersion(frames[1]);
      if (version !== undefined) {
        this.#put({ event: "kernel_lost", reason: `the kernel sends events of version ${version}` });
        this.close(); // nothing more can be read (SPEC §3.1)
      }
      return;
    }
    this.#heard = now();
    let verdict;
    if (event.event === "heartbeat") {
      verdict = cursor.heartbeat(/** @type {any} */ (event));
      this.#begun.fire();
    } else if (this.#full && !cursor.behind) {
      verdict = "catch up"; // the kernel's ring keeps it, and a replay brings it
    } else {
      verdict = cursor.event(/** @type {any} */ (event));
      if (verdict !== "keep") this.#hold(cursor, verdict, event);
    }
    this.#report(cursor);
    if (verdict === "keep") this.#show(cursor, event);
    else if (verdict === "catch up") this.#catchUp(cursor);
  }

  /** What is behind a gap is kept for the end of the replay. @param {StreamCursor} cursor @param {string} verdict @param {any} event */
  #hold(cursor, verdict, event) {
    const gap = cursor.behind || verdict === "catch up";
    if (gap && !this.#full && isMessages(cursor)) this.counters.skipped += cursor.held.add(event);
    else this.counters.skipped += 1 + cursor.held.clear();
  }

  /** Kinds of later versions are not shown. @param {StreamCursor} cursor @param {Record<string, any>} event */
  #show(cursor, { event, topic, payload, ...fields }) {
    if (event === "unknown") return;
    this.counters.received += 1;
    this.#put({ event, stream: cursor.stream, ...fields, ...(event === "message" ? { payload } : {}) });
  }

  /** For health and peers the whole state replaces what is lost. @param {StreamCursor} cursor */
  #report(cursor) {
    const losses = cursor.takeLosses();
    if (isMessages(cursor)) losses.forEach((loss) => this.#put(loss));
    else if (losses.length) this.#catchUp(cursor);
  }

  // -- silence ---------------------------------------------------------------------------------------------------------

  /**
   * Three heartbeats that did not come: ask the control socket. A kernel that hangs keeps its connections, so nothing else
   * shows it. One that answers may have sent events which did not come either.
   */
  async #lookAfter() {
    const silence = now() - this.#heard;
    if (this.#host.connected && silence > MISSED * this.#host.heartbeatMs) {
      // Our own loop may have been busy: what waits in the socket comes first.
      await new Promise((resolve) => setTimeout(resolve, 0));
      if (now() - this.#heard > MISSED * this.#host.heartbeatMs) await this.#ask();
    } else if (this.#silent && this.#host.connected) await this.#ask();
    if (!this.#closed) this.#watch = setTimeout(() => this.#lookAfter(), this.#host.heartbeatMs).unref();
  }

  async #ask() {
    const answers = await this.#host.answers();
    if (this.#closed || !this.#host.connected) return;
    if (!answers) {
      if (!this.#silent) this.#putLocal({ event: "kernel_lost", reason: "no heartbeat, and no answer from its control socket" });
      this.#silent = true;
      return;
    }
    if (this.#silent) this.found(false);
    this.#heard = now();
    this.#beating().forEach((cursor) => this.#catchUp(cursor));
  }

  // -- catching up -----------------------------------------------------------------------------------------------------

  /** @param {StreamCursor} cursor */
  #catchUp(cursor) {
    cursor.behind = true;
    if (this.#filling || this.#closed) return;
    this.#filling = true;
    this.#fillAll().finally(() => (this.#filling = false));
  }

  /** Fill the gaps of all streams, one after another: the kernel takes one replay per consumer at a time. */
  async #fillAll() {
    let delay = RETRY_MS;
    for (let cursor; (cursor = [...this.#cursors.values()].find(({ behind }) => behind)); ) {
      try {
        await this.#fill(cursor);
        delay = RETRY_MS;
      } catch (error) {
        if (this.#closed) return;
        if (!(error instanceof LogosError)) throw error;
        if (error.retriable) {
          await new Promise((resolve) => setTimeout(resolve, delay).unref());
          delay = Math.min(delay * 2, RETRY_MAX_MS);
          continue;
        }
        cursor.giveUp(cursor.highest, error.message);
        this.#report(cursor);
      }
      if (this.#closed) return;
      cursor.behind = false;
      this.counters.skipped += cursor.held.clear();
    }
  }

  /** @param {StreamCursor} cursor */
  async #fill(cursor) {
    if (cursor.stream === HEALTH) {
      const { body: health, instance } = await this.#host.ask("node.health");
      cursor.jump(cursor.highest);
      this.#put({ event: "health", stream: HEALTH, instance, epoch: cursor.epoch, seq: cursor.last, time_ns: 0, health });
    } else if (cursor.stream === PEERS) {
      const { body } = await this.#host.ask("peers.list");
      cursor.jump(cursor.highest);
      this.#put({ event: "peers_snapshot", peers: body.peers });
    } else {
      for (let complete = false; !complete && !this.#closed; ) {
        while (this.#full && !this.#closed) await this.#room.wait();
        complete = await this.#replayPage(cursor);
      }
    }
  }

  /** Fetch one page of a replay; true: it was the last one. @param {StreamCursor} cursor */
  async #replayPage(cursor) {
    this.counters.replays += 1;
    let page;
    try {
      page = await this.#host.replay(cursor.stream, cursor.epoch, cursor.last);
    } catch (error) {
      this.#refused(cursor, error);
      this.#report(cursor);
      return false;
    }
    for (const [header, payload] of page.events) {
      const event = decoded([Buffer.from(`${cursor.stream}\0`), header, payload]);
      if (!event) throw new LogosError("bad_request", `a replay of ${cursor.stream} with something else than events`);
      if (cursor.replayed(/** @type {any} */ (event)) === "keep") this.#show(cursor, event);
    }
    this.#report(cursor);
    if (!page.events.length && !page.complete) {
      throw new LogosError("internal", `an empty page in a replay of ${cursor.stream}`);
    }
    const held = cursor.takeHeld();
    for (const event of held) if (cursor.replayed(event) === "keep") this.#show(cursor, event);
    return page.complete || held.length > 0;
  }

  /** What is gone is reported, and the replay goes on behind it. @param {StreamCursor} cursor @param {any} error */
  #refused(cursor, error) {
    const { first, epoch } = error.detail ?? {};
    if (error.code === "trimmed" && first > cursor.last + 1) cursor.giveUp(first - 1, "no longer in the kernel's ring");
    else if (error.code === "epoch_changed" && Buffer.isBuffer(epoch) && !epoch.equals(cursor.epoch)) {
      cursor.beginAgain(this.#host.instance, epoch);
    } else if (error.code === "epoch_changed") {
      // It names the epoch that we asked for: asking again at once would turn in circles.
      throw new LogosError("internal", `${cursor.stream}: ${error.message}`);
    } else throw error;
  }
}

/** An event; null: it is not one. @param {Buffer[]} frames */
const decoded = (frames) => {
  try {
    const event = decodeKernelEvent(frames);
    return Number.isSafeInteger(event.seq) ? event : null; // beyond it there is no seq + 1
  } catch {
    return null;
  }
};
