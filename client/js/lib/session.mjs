// An app's session with a Messaging API: hello, its stream over any number of connections, credit and acks, and requests
// that outlive a connection (ipc_schema/SPEC.md, §4).
import { messagingEndpoint } from "./arguments.mjs";
import * as check from "./arguments.mjs";
import { ChannelHooks } from "./channel-hooks.mjs";
import { Connection } from "./connection.mjs";
import { EventConsumer } from "./consumer.mjs";
import { LogosError, closed, isLost } from "./errors.mjs";
import { AppEvent } from "./events.mjs";
import { decodeEvent } from "./frames.mjs";
import { AppStream } from "./stream.mjs";

/** @typedef {import("./types.mjs").StatusReply} Status */
/** @typedef {import("./stream.mjs").Position} Position */

export const TIMEOUT_MS = 10_000;
const ACK_DELAY_MS = 100; // one ack for all that was handled in this time: for a named app it is a write to the disk
const RETRY_MS = 200;
const RETRY_MAX_MS = 5_000;
const LEAVE_MS = 2_000;

export class AppSession {
  /** The last hello's reply. @type {Record<string, any> | null} */ greeting = null;
  /** @type {Status | null} */ status = null;
  /** The app's subscriptions. @type {Set<string>} */ topics = new Set();
  hooks = new ChannelHooks();
  closed = false;
  takenOver = false;
  #autoAck;
  #offered = 0;
  /** Until the app has the event. @type {Position | null} */ #lost = null;
  /** @type {NodeJS.Timeout | null} */ #timer = null;

  /**
   * `onError(error, event)` gets what a callback throws.
   * @param {string} endpoint
   * @param {{name?: string, takeover: boolean, credit: number, autoAck: boolean,
   *   onError: (error: unknown, event: AppEvent) => void}} options
   */
  constructor(endpoint, { name, takeover, credit, autoAck, onError }) {
    this.#autoAck = autoAck;
    this.stream = new AppStream(credit);
    this.consumer = new EventConsumer(this.stream, {
      settle: () => this.#settle(),
      openSegment: (event) => this.#openSegment(event),
      onError,
    });
    this.connection = new Connection(messagingEndpoint(endpoint), {
      hello: () => {
        this.#offered = this.stream.openingCredit();
        // Taking over is for the first time only: two that both insist would take turns for ever.
        const insist = takeover && !this.greeting;
        return { kind: "app", protocol: [1, 1], name, takeover: insist, credit: this.#offered, seen: this.#seen() };
      },
      onHello: (body) => this.#greeted(body),
      onDown: (reason) => this.#linkLost(reason),
      onEvent: (frames) => this.#receive(frames),
      keepalive: "ping",
    });
  }

  /** @returns {string[]} */
  get features() {
    return this.greeting?.features ?? [];
  }

  /** @returns {import("./types.mjs").MapiLimits} */
  get limits() {
    return this.greeting?.limits;
  }

  // -- requests --------------------------------------------------------------------------------------------------------

  /**
   * The body of a reply.
   * @param {string} method
   * @param {Record<string, unknown>} [body]
   * @param {number} [timeout]
   */
  async call(method, body = {}, timeout = TIMEOUT_MS) {
    this.checkOpen();
    return (await this.connection.request(method, body, [], timeout)).body;
  }

  /**
   * The reply to an idempotent request: a lost connection is no reason to give up.
   * @param {string} method
   * @param {Record<string, unknown>} [body]
   * @param {Uint8Array[]} [blobs]
   * @param {number} [timeout]
   */
  async repeat(method, body = {}, blobs = [], timeout = TIMEOUT_MS) {
    const deadline = performance.now() + timeout;
    for (let left = timeout; ; left = deadline - performance.now()) {
      this.checkOpen();
      try {
        return await this.connection.request(method, body, blobs, left);
      } catch (error) {
        if (!isLost(error) || performance.now() >= deadline) throw error;
      }
    }
  }

  checkOpen() {
    if (this.takenOver) throw new LogosError("conflict", "another connection has taken over this app's name");
    if (this.closed) throw closed();
  }

  /** @param {Position} position */
  async ack(position) {
    await this.call("ack", { stream: position.stream_id, seq: position.seq });
    this.stream.acked(position);
  }

  /** Acknowledge what was handled and leave. @param {boolean} handled the last event given out was handled too */
  async close(handled) {
    if (this.closed) return;
    this.closed = true;
    if (this.#timer) clearTimeout(this.#timer);
    if (handled && !this.consumer.opening) this.stream.handled();
    if (this.connection.ready && !this.takenOver) {
      try {
        const due = this.#autoAck ? this.stream.ackDue() : null;
        if (due) await this.connection.request("ack", { stream: due.stream_id, seq: due.seq }, [], LEAVE_MS);
        await this.connection.request("goodbye", {}, [], LEAVE_MS);
      } catch (error) {
        if (!(error instanceof LogosError)) throw error; // a server that is gone: what it did not take comes again
      }
    }
    this.connection.close();
    this.consumer.end();
  }

  // -- hello -----------------------------------------------------------------------------------------------------------

  /** The last event that came here, by which a server notices that an older state was put back. */
  #seen() {
    const { streamId: stream, lastSeq: seq } = this.stream;
    return this.greeting && stream && seq ? { stream, seq, instance: this.greeting.instance } : undefined;
  }

  /** @param {Record<string, any>} hello */
  #greeted(hello) {
    check.greeting(hello);
    const { stream, subscriptions } = hello;
    const first = !this.greeting;
    this.greeting = hello;
    this.status = hello.status;
    const lost = this.stream.greeted(stream.id, stream.acked, this.#offered);
    this.#lost ??= lost; // the connection may be lost again before the app is told: what it has events of is the first stream
    if (first) return subscriptions.forEach((/** @type {string} */ topic) => this.topics.add(topic));
    const known = new Set(subscriptions);
    // A list that goes on is sorted by code points (§4.2): it says nothing about what lies behind its end.
    const end = hello.more ? Buffer.from(subscriptions.at(-1)) : null;
    const told = (/** @type {string} */ topic) => !end || Buffer.from(topic).compare(end) < 0;
    const missing = [...this.topics].filter((topic) => !known.has(topic) && told(topic)).sort();
    if (missing.length) setImmediate(() => this.#resubscribe(missing));
    else this.#linkRestored({});
    this.#settleLater(); // what was handled meanwhile
  }

  /** Ask again for what the Messaging API does not know of us any more. @param {string[]} topics */
  async #resubscribe(topics) {
    /** @type {Record<string, string>} */ let errors;
    for (let delay = RETRY_MS; ; delay = Math.min(delay * 2, RETRY_MAX_MS)) {
      try {
        errors = (await this.connection.request("subscribe", { topics })).body.errors;
        break;
      } catch (error) {
        if (!(error instanceof LogosError)) throw error;
        if (error.code === "peer_restarted" || !this.connection.ready) return; // the next hello does it
        if (!error.retriable) {
          errors = Object.fromEntries(topics.map((topic) => [topic, error.message]));
          break;
        }
      }
      await new Promise((resolve) => setTimeout(resolve, delay).unref());
    }
    Object.keys(errors).forEach((topic) => this.topics.delete(topic));
    this.#linkRestored(errors);
  }

  /** @param {Record<string, string>} errors */
  #linkRestored(errors) {
    const lost = this.#lost;
    this.#lost = null;
    this.#putLocal({
      event: "link_restored",
      resumed: !lost,
      lost_stream: lost?.stream_id ?? null,
      last_seq: lost?.seq ?? this.stream.lastSeq,
      subscription_errors: errors,
    });
  }

  /** @param {string} reason */
  #linkLost(reason) {
    if (!this.takenOver) this.#putLocal({ event: "link_lost", reason });
  }

  /** @param {Record<string, unknown>} fields */
  #putLocal(fields) {
    this.stream.putLocal(new AppEvent(fields));
    this.consumer.wake();
  }

  /** @param {Buffer[]} frames */
  #receive(frames) {
    let decoded;
    try {
      decoded = decodeEvent(frames);
    } catch {
      return this.stream.garbage();
    }
    const event = this.stream.receive(decoded, frames[1].length + (frames[2]?.length ?? 0));
    if (!event) return this.#settle(); // what was dropped gives its credit back too
    if (event.event === "taken_over") {
      this.takenOver = true;
      this.connection.close();
    }
    this.#noteStatus(event);
    this.consumer.wake();
  }

  /** @param {any} event */
  #noteStatus({ event, status, reason, content_topic, health }) {
    const known = /** @type {Status} */ (this.status);
    if (event === "connection_status_change") this.status = { ...known, connection: status, reason };
    else if (event === "content_topic_health_change") {
      this.status = { ...known, topics: { ...known.topics, [content_topic]: health } };
    }
  }

  /** Give credit back, and see to it that an ack follows soon. */
  #settle() {
    if (this.closed || this.takenOver) return;
    const total = this.stream.creditDue();
    if (total !== null && this.connection.tell("credit", { total })) this.stream.granted(total);
    if (this.#autoAck && this.stream.ackDue()) this.#settleLater();
  }

  #settleLater() {
    if (this.closed) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      const due = this.#autoAck ? this.stream.ackDue() : null;
      if (due && this.connection.tell("ack", { stream: due.stream_id, seq: due.seq })) this.stream.acked(due);
      this.#settle();
    }, ACK_DELAY_MS);
  }

  /**
   * Decrypt a segment and give it back. False: there are no hooks for its channel.
   *
   * The event counts as handled, and so may be acknowledged, only when the Messaging API has the segment: until then it
   * comes again. Given back twice, it does no harm.
   * @param {any} event
   */
  async #openSegment({ channel_id, message_id, payload }) {
    if (!this.hooks.has(channel_id)) return false;
    const { content, error } = await this.hooks.open(channel_id, payload);
    for (let delay = RETRY_MS; !this.closed && !this.takenOver; delay = Math.min(delay * 2, RETRY_MAX_MS)) {
      try {
        await this.connection.request("channel.opened", { channel_id, message_id, error }, content ? [content] : []);
        break;
      } catch (failure) {
        if (!(failure instanceof LogosError)) throw failure;
        if (!failure.retriable) break; // closed or forgotten: a channel that is opened again gives its segments again
      }
      await new Promise((resolve) => setTimeout(resolve, delay).unref());
    }
    return true;
  }
}
