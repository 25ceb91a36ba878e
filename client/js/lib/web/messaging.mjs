// The client of a Messaging API for browsers: the same calls and events as for Node.js, over the WebSocket of a gateway.
import { toHex } from "../bytes.mjs";
import { EventConsumer } from "../consumer.mjs";
import { LogosError, closed, repeat } from "../errors.mjs";
import { AppEvent } from "../events.mjs";
import { AppStream } from "../stream.mjs";
import { bytes, checkOptions, list } from "./arguments.mjs";
import { ChannelMethods } from "./channels.mjs";
import { SocketConnection } from "./connection.mjs";
import { readEvent, readPending, readStatus, toBase64 } from "./frames.mjs";

/** @typedef {import("./types.mjs").Event} Event */
/** @typedef {import("./types.mjs").StatusReply} Status */
/** @typedef {import("../stream.mjs").Position} Position */
/** @typedef {import("./arguments.mjs").ConnectOptions} ConnectOptions */

const ACK_DELAY_MS = 100;
const LEAVE_MS = 2_000;
const TIMEOUT_MS = 10_000;
const DEFAULT_CREDIT = 2 << 20;

/** @param {unknown} error @param {Event} event */
const complain = (error, event) => console.error(`a callback for ${event.event} failed:`, error); // never the payload

/** An app's connection to a Messaging API. Made by `connect`. */
export class MessagingClient extends ChannelMethods {
  #connection; #stream; #consumer; #base;
  /** @type {boolean} */ #autoAck;
  /** @type {string} */ #name;
  /** @type {string | (() => string)} */ #token;
  /** @type {boolean} */ #insist;
  /** @type {any} */ #hello = null;
  /** @type {string | null} the Messaging API that the last event came from; null while that is not known */ #instance = null;
  /** @type {Status | null} */ #status = null;
  #granted = 0;
  /** @type {ReturnType<typeof setTimeout> | null} */ #timer = null;
  #closed = false;
  #down = false;

  /**
   * Connect to a gateway as an app.
   *
   * Rejects with a `LogosError`: `not_ready` (none there in time, or it refuses the token: a browser does not say which),
   * `conflict` (the name is in use), `bad_request`.
   * @param {string | URL} gateway where it serves, `https://node.example:8645`; relative to the page
   * @param {ConnectOptions} options
   */
  static async connect(gateway, options) {
    const client = new MessagingClient(gateway, options);
    try {
      await client.#connection.whenReady(performance.now() + (options.timeout ?? TIMEOUT_MS));
      return client;
    } catch (error) {
      await client.close();
      throw error;
    }
  }

  /**
   * Not for apps: see `connect`.
   * @param {string | URL} gateway
   * @param {ConnectOptions} options
   */
  constructor(gateway, options) {
    super({
      once: async (op, fields, wait) => {
        this.#checkOpen();
        return this.#connection.request(op, fields, wait);
      },
      repeat: (op, fields, wait) => this.#repeat(op, fields, wait),
    });
    checkOptions(options);
    const { name, token = "", takeover = false, credit = DEFAULT_CREDIT, ack = "auto", onError = complain } = options;
    this.#base = new URL(gateway, globalThis.location?.href);
    this.#base.protocol = this.#base.protocol.replace("http", "ws");
    if (!this.#base.pathname.endsWith("/")) this.#base.pathname += "/";
    this.#name = name;
    this.#token = token;
    this.#insist = takeover;
    this.#autoAck = ack === "auto";
    this.#stream = new AppStream(credit);
    this.#consumer = new EventConsumer(this.#stream, { settle: () => this.#settle(), onError: /** @type {any} */ (onError) });
    this.#connection = new SocketConnection({
      url: () => this.#url(),
      token: () => (typeof this.#token === "function" ? this.#token() : this.#token),
      onOpen: () => this.#stream.opened(this.#granted),
      onReady: (hello) => this.#greeted(hello),
      onDown: (reason) => this.#linkLost(reason),
      onEvent: (frame) => this.#receive(frame),
    });
  }

  /** Each connection begins with what the queue has room for, behind the last event that is here. */
  #url() {
    const url = new URL(`apps/v1/${this.#name}/socket`, this.#base);
    this.#granted = this.#stream.openingCredit();
    url.searchParams.set("credit", String(this.#granted));
    if (this.#stream.streamId) {
      url.searchParams.set("after", `${toHex(this.#stream.streamId)}:${this.#stream.lastSeq}`);
      // By both a Messaging API notices that an older state of its files was put back (`seen` of the contract).
      if (this.#instance) url.searchParams.set("instance", this.#instance);
    }
    // Taking over is for the first time only: two that both insist would take turns for ever.
    if (this.#insist && !this.#hello) url.searchParams.set("takeover", "true");
    return url;
  }

  // -- what is known ---------------------------------------------------------------------------------------------------

  /** Whether the gateway is there now. */
  get connected() {
    return this.#connection.ready;
  }

  /** The app's name. */
  get name() {
    return this.#name;
  }

  /** An app over a gateway has a name, so its stream outlives its connection. */
  get durable() {
    return true;
  }

  /** Name and version of the Messaging API. @returns {string} */
  get server() {
    return this.#hello?.server;
  }

  /** The network the node is on. @returns {import("./types.mjs").NetworkInfo} */
  get network() {
    return this.#hello?.network;
  }

  /** The Messaging API's limits; `max_payload` is what surely fits a message. @returns {import("./types.mjs").MapiLimits} */
  get limits() {
    return this.#hello?.limits;
  }

  /** The node's status as far as it is known here, without a request. @returns {Status} */
  get lastStatus() {
    return /** @type {Status} */ (this.#status);
  }

  /** What happened to events on their way in. */
  get counters() {
    return this.#stream.counters;
  }

  /** Bytes of events that wait for the app. */
  get bufferedBytes() {
    return this.#stream.queuedBytes;
  }

  // -- requests --------------------------------------------------------------------------------------------------------

  /**
   * Subscribe to content topics. Resolves to `{topic: why not}`; the others took effect. A single topic that is refused
   * rejects with `bad_request`.
   * @param {string | string[]} topics
   * @param {{sinceLast?: boolean, historyMs?: number, timeout?: number}} [options] `sinceLast`: also what came since this
   *   app unsubscribed the topic; `historyMs`: also what came in the last so many ms
   * @returns {Promise<Record<string, string>>}
   */
  async subscribe(topics, { sinceLast = false, historyMs = 0, timeout } = {}) {
    const fields = { topics: list(topics), sinceLast, historySeconds: historyMs / 1000 };
    const { errors } = await this.#repeat("subscribe", fields, timeout);
    if (typeof topics === "string" && Object.hasOwn(errors, topics)) {
      throw new LogosError("bad_request", `${topics}: ${errors[topics]}`);
    }
    return errors;
  }

  /**
   * Unsubscribe from content topics. Resolves to `{topic: why not}`.
   * @param {string | string[]} topics
   * @param {{timeout?: number}} [options]
   * @returns {Promise<Record<string, string>>}
   */
  async unsubscribe(topics, { timeout } = {}) {
    this.#checkOpen();
    return (await this.#connection.request("unsubscribe", { topics: list(topics) }, timeout)).errors;
  }

  /** The app's content topics. @param {{timeout?: number}} [options] @returns {Promise<string[]>} */
  async subscriptions({ timeout } = {}) {
    return (await this.#repeat("subscriptions", {}, timeout)).topics;
  }

  /**
   * Hand a message over: its request id (16 bytes) once it is accepted. Its fate follows as events with this id. The id
   * is the idempotency key: across reconnects the same send is repeated under it, within `timeout` ms.
   * @param {string} topic
   * @param {Uint8Array} payload
   * @param {{ephemeral?: boolean, meta?: Uint8Array, requestId?: Uint8Array, timeout?: number}} [options]
   * @returns {Promise<Uint8Array>}
   */
  async send(topic, payload, { ephemeral = false, meta, requestId, timeout } = {}) {
    if (typeof topic !== "string") throw new TypeError("content topic: a string");
    bytes("payload", payload);
    if (meta !== undefined) bytes("meta", meta);
    if (requestId !== undefined) bytes("request id", requestId, 16);
    this.#checkOpen();
    const id = requestId ?? crypto.getRandomValues(new Uint8Array(16));
    await this.#repeat("send", {
      requestId: toHex(id), contentTopic: topic, payload: toBase64(payload), ephemeral, ...(meta ? { meta: toBase64(meta) } : {}),
    }, timeout);
    return id;
  }

  // -- sends, acks, status ---------------------------------------------------------------------------------------------

  /** The sends that have no fate yet, oldest first, and how many there are. @returns {Promise<import("./types.mjs").PendingReply>} */
  async pending() {
    const { sends, total, states } = await this.#repeat("pending");
    return { sends: sends.map(readPending), total, states };
  }

  /**
   * A send by its request id, also when it is final: `state` is then `sent`, `unconfirmed`, `failed` or `cancelled`. Null: it
   * was not accepted, or a day ago, after which ids are forgotten.
   * @param {Uint8Array} requestId
   * @returns {Promise<import("./types.mjs").PendingSend | null>}
   */
  async findSend(requestId) {
    bytes("request id", requestId, 16);
    const { send } = await this.#repeat("find_send", { requestId: toHex(requestId) });
    return send && readPending(send);
  }

  /** Cancel a send that was not attempted yet; false: too late, or there is no such send. @param {Uint8Array} requestId @returns {Promise<boolean>} */
  async cancel(requestId) {
    bytes("request id", requestId, 16);
    this.#checkOpen();
    return (await this.#connection.request("cancel", { requestId: toHex(requestId) })).cancelled;
  }

  /**
   * Acknowledge everything up to an event; without one, up to the last handled one. It is on disk when this resolves.
   * @param {Event | Position} [event]
   */
  async ack(event) {
    const position = event ? /** @type {Position} */ (/** @type {unknown} */ (event)) : this.#stream.position;
    if (!position?.stream_id) return; // an event of the client's own
    this.#checkOpen();
    await this.#connection.request("ack", { streamId: toHex(position.stream_id), seq: position.seq });
    this.#stream.acked(position);
  }

  /**
   * The node's connection status, and the health of each subscribed content topic.
   * @param {{timeout?: number}} [options]
   * @returns {Promise<Status>}
   */
  async status({ timeout } = {}) {
    return readStatus(await this.#repeat("status", {}, timeout));
  }

  /**
   * An idempotent request: a lost connection is no reason to give up.
   * @param {string} op
   * @param {Record<string, unknown>} [fields]
   * @param {number} [timeout]
   * @returns {Promise<any>}
   */
  async #repeat(op, fields = {}, timeout = TIMEOUT_MS) {
    return repeat(async (remaining) => {
      this.#checkOpen();
      return this.#connection.request(op, fields, remaining);
    }, timeout);
  }

  #checkOpen() {
    if (this.#closed) throw closed();
  }

  // -- events ----------------------------------------------------------------------------------------------------------

  /**
   * The next event; null when none can come any more. Asking for it says that the one before it is handled.
   * @param {number} [timeout] ms; rejects with `deadline_exceeded` when there is none in that time
   * @returns {Promise<Event | null>}
   */
  nextEvent(timeout) {
    return /** @type {Promise<any>} */ (this.#consumer.next(timeout));
  }

  /** Events one after another; see the Node.js client. @returns {AsyncIterator<Event, undefined>} */
  [Symbol.asyncIterator]() {
    return /** @type {any} */ (this.#consumer.events());
  }

  /**
   * Call a function, plain or async, with each event of a kind, or of all (`"*"`); returns what undoes it.
   * @template {Event["event"] | "*"} K
   * @param {K} kind
   * @param {(event: K extends "*" ? Event : Extract<Event, {event: K}>) => unknown} callback
   * @returns {() => void}
   */
  on(kind, callback) {
    return this.#consumer.on(kind, /** @type {any} */ (callback));
  }

  /**
   * Acknowledge what was handled (mode `auto`) and leave; the app goes on in the Messaging API.
   * @param {{handled?: boolean}} [options] `handled: true`: the last event given out was handled too. Else it comes again:
   *   an iterator cannot tell a loop that was left by `break` from one whose body threw.
   */
  async close({ handled = false } = {}) {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#timer) clearTimeout(this.#timer);
    if (handled) this.#stream.handled();
    const due = this.#autoAck ? this.#stream.ackDue() : null;
    if (due && this.#connection.ready) {
      try {
        await this.#connection.request("ack", { streamId: toHex(due.stream_id), seq: due.seq }, LEAVE_MS);
      } catch (error) {
        if (!(error instanceof LogosError)) throw error; // what the gateway did not take comes again
      }
    }
    this.#connection.close();
    this.#consumer.end();
  }

  // -- the session -----------------------------------------------------------------------------------------------------

  /** @param {any} hello */
  #greeted(hello) {
    this.#hello = hello;
    this.#instance = hello.instance ?? null;
    this.#status = readStatus(hello.status);
    if (this.#down) this.#putLocal({ event: "link_restored", resumed: true, lost_stream: null, last_seq: this.#stream.lastSeq, subscription_errors: {} });
    this.#down = false;
    this.#settleLater();
  }

  /** @param {string} reason */
  #linkLost(reason) {
    this.#down = true;
    this.#putLocal({ event: "link_lost", reason });
  }

  /** @param {Record<string, unknown>} fields */
  #putLocal(fields) {
    this.#stream.putLocal(new AppEvent(fields));
    this.#consumer.wake();
  }

  /** @param {import("./frames.mjs").Shown} frame */
  #receive({ event: shown, cost }) {
    const event = readEvent(shown);
    if (!event) return this.#stream.garbage();
    if (!event.stream_id) return this.#gatewayLink(event);
    if (!this.#stream.streamId) this.#stream.follow(event.stream_id, event.seq - 1);
    else if (this.#differs(event.stream_id)) {
      const lost = this.#stream.follow(event.stream_id, event.seq - 1);
      this.#putLocal({ event: "link_restored", resumed: false, lost_stream: lost?.stream_id ?? null, last_seq: lost?.seq ?? 0, subscription_errors: {} });
    }
    const taken = this.#stream.receive(event, cost ?? 0);
    if (!taken) return this.#settle(); // what was dropped gives its credit back too
    this.#noteStatus(taken);
    this.#consumer.wake();
  }

  /** The gateway lost the Messaging API, or is back: what follows may come from another one. @param {any} event */
  #gatewayLink(event) {
    this.#instance = null;
    if (event.event === "link_restored") {
      this.#connection.request("hello").then(({ instance }) => (this.#instance = instance ?? null), () => {});
    }
    this.#putLocal(event);
  }

  /** @param {Uint8Array} id */
  #differs(id) {
    return toHex(id) !== toHex(/** @type {Uint8Array} */ (this.#stream.streamId));
  }

  /** @param {any} event */
  #noteStatus({ event, status, reason, content_topic, health }) {
    const known = /** @type {Status} */ (this.#status);
    if (event === "connection_status_change") this.#status = { ...known, connection: status, reason };
    else if (event === "content_topic_health_change") {
      this.#status = { ...known, topics: { ...known?.topics, [content_topic]: health } };
    }
  }

  /** Give credit back, and see to it that an ack follows soon. */
  #settle() {
    if (this.#closed) return;
    const total = this.#stream.creditDue();
    if (total !== null && this.#connection.tell("credit", { bytes: total - this.#granted })) {
      this.#granted = total;
      this.#stream.granted(total);
    }
    if (this.#autoAck && this.#stream.ackDue()) this.#settleLater();
  }

  #settleLater() {
    if (this.#closed) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      const due = this.#autoAck ? this.#stream.ackDue() : null;
      if (due && this.#connection.tell("ack", { streamId: toHex(due.stream_id), seq: due.seq })) this.#stream.acked(due);
      this.#settle();
    }, ACK_DELAY_MS);
  }
}
