// The client of a Messaging API: subscribe, send, and one ordered stream of events with byte credit, acks and
// resumption (ipc_schema/SPEC.md, §4). It reconnects by itself.
import * as check from "./arguments.mjs";
import { ChannelMethods } from "./channels.mjs";
import { LogosError } from "./errors.mjs";
import { newRequestId } from "./ids.mjs";
import { AppSession, TIMEOUT_MS } from "./session.mjs";

/** @typedef {import("./types.mjs").Event} Event */
/** @typedef {import("./types.mjs").StatusReply} Status */
/** @typedef {import("./stream.mjs").Position} Position */
/**
 * @typedef {object} ConnectOptions
 * @property {string} [name] a durable app (`[a-z0-9._-]{1,64}`): its subscriptions, stream and position outlive this
 *   program; without one the app ends with its connection
 * @property {boolean} [takeover] end another live connection of that name
 * @property {number} [credit] bytes of events that may wait here or be on their way
 * @property {"auto" | "manual"} [ack] `"auto"` acknowledges an event when the next one is asked for, its callbacks have
 *   returned, or the client is closed; `"manual"` leaves it to `ack`
 * @property {number} [timeout] ms to wait for the Messaging API
 * @property {(error: unknown, event: Event) => void} [onError] gets what a callback throws
 */

const DEFAULT_CREDIT = 2 << 20;

/** @param {unknown} error @param {Event} event */
const complain = (error, event) => console.error(`a callback for ${event.event} failed:`, error); // never the payload

/** An app's connection to a Messaging API. Made by `connect`. */
export class MessagingClient extends ChannelMethods {
  #session;

  /**
   * Connect to a Messaging API.
   *
   * Rejects with a `LogosError`: `not_ready` (none there in time), `conflict` (the name is in use), `bad_request`,
   * `unsupported_version`, `unauthorised`.
   * @param {string} endpoint `ipc://…`, `tcp://…`, or a node's run directory
   * @param {ConnectOptions} [options]
   */
  static async connect(endpoint, options = {}) {
    const client = new MessagingClient(endpoint, options);
    try {
      await client.#session.connection.whenReady(performance.now() + (options.timeout ?? TIMEOUT_MS));
      // A first hello's list that goes on (§4.2): a server that loses the app's subscriptions gets all of them again.
      if (client.#session.greeting?.more) (await client.subscriptions()).forEach((topic) => client.#session.topics.add(topic));
      return client;
    } catch (error) {
      await client.close();
      throw error;
    }
  }

  /**
   * Not for apps: see `connect`.
   * @param {string} endpoint
   * @param {ConnectOptions} options
   */
  constructor(endpoint, options) {
    const { name, takeover = false, credit = DEFAULT_CREDIT, ack = "auto", onError = complain } = options;
    check.options(options);
    const autoAck = ack === "auto";
    const session = new AppSession(endpoint, { name, takeover, credit, autoAck, onError: /** @type {any} */ (onError) });
    super(session);
    this.#session = session;
  }

  // -- what is known ---------------------------------------------------------------------------------------------------

  /** Whether the Messaging API is there now (not whether its node has peers: see `status`). */
  get connected() {
    return this.#session.connection.ready;
  }

  /** The app's name; one made up by the Messaging API when it is ephemeral. @returns {string} */
  get name() {
    return this.#session.greeting?.app;
  }

  /** Whether the app's stream outlives its connection. @returns {boolean} */
  get durable() {
    return this.#session.greeting?.durable;
  }

  /** Name and version of the Messaging API. @returns {string} */
  get server() {
    return this.#session.greeting?.server;
  }

  /** What the Messaging API can do beyond the first version of the contract. @returns {string[]} */
  get features() {
    return this.#session.features;
  }

  /** The network the node is on. @returns {import("./types.mjs").NetworkInfo} */
  get network() {
    return this.#session.greeting?.network;
  }

  /** The Messaging API's limits; `max_payload` is what surely fits a message. @returns {import("./types.mjs").MapiLimits} */
  get limits() {
    return this.#session.limits;
  }

  /**
   * The node's status as far as it is known here, without a request: that of the hello, and what events have brought
   * since. @returns {Status}
   */
  get lastStatus() {
    return /** @type {Status} */ (this.#session.status);
  }

  /** What happened to events on their way in. */
  get counters() {
    return this.#session.stream.counters;
  }

  /** Bytes of events that wait for the app. */
  get bufferedBytes() {
    return this.#session.stream.queuedBytes;
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
  async subscribe(topics, { sinceLast, historyMs, timeout } = {}) {
    const wanted = check.topics(topics);
    const body = { topics: wanted, since_last: sinceLast, history_ms: historyMs };
    const { errors } = (await this.#session.repeat("subscribe", body, [], timeout)).body;
    wanted.filter((topic) => !Object.hasOwn(errors, topic)).forEach((topic) => this.#session.topics.add(topic));
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
    const unwanted = check.topics(topics);
    const { errors } = await this.#session.call("unsubscribe", { topics: unwanted }, timeout);
    unwanted.forEach((topic) => this.#session.topics.delete(topic));
    return errors;
  }

  /** The app's content topics. @param {{timeout?: number}} [options] @returns {Promise<string[]>} */
  async subscriptions({ timeout } = {}) {
    /** @type {string[]} */ const found = [];
    for (;;) {
      const { topics, more } = (await this.#session.repeat("subscriptions", { after: found.at(-1) }, [], timeout)).body;
      found.push(...topics);
      if (!more || !topics.length) return found;
    }
  }

  /**
   * Hand a message over: its request id (16 bytes) once it is accepted. Its fate follows as events with this id. The id
   * is the idempotency key: across reconnects the same send is repeated under it, within `timeout` ms.
   * @param {string} topic
   * @param {Uint8Array} payload
   * @param {{ephemeral?: boolean, meta?: Uint8Array, requestId?: Uint8Array, timestamp?: number | bigint, timeout?: number}}
   *   [options] `timestamp`: ns since 1970 (a BigInt), so that another node can send the same message in this one's place
   * @returns {Promise<Buffer>}
   */
  async send(topic, payload, { ephemeral = false, meta, requestId, timestamp, timeout } = {}) {
    check.text("content topic", topic);
    check.bytes("payload", payload);
    if (meta !== undefined) check.bytes("meta", meta);
    if (requestId !== undefined) check.bytes("request id", requestId, 16);
    if (timestamp !== undefined) check.nanoseconds("timestamp", timestamp);
    this.#session.checkOpen();
    if (timestamp !== undefined && !this.features.includes("send_timestamp")) {
      throw new LogosError("unknown_method", `${this.server} cannot send with a timestamp of the app's`); // it would ignore it
    }
    const most = this.limits?.blob_bytes;
    if (most && payload.length > most) {
      // Such a frame would cost us the connection: the server's socket refuses it unread.
      const limit = this.network.max_message_size;
      const message = `Message size exceeded maximum of ${limit} bytes: the payload alone has ${payload.length}`;
      throw new LogosError("too_large", message);
    }
    const id = requestId ? Buffer.from(requestId) : newRequestId();
    const body = { request_id: id, content_topic: topic, meta, ephemeral, timestamp };
    await this.#session.repeat("send", body, [Buffer.from(payload)], timeout);
    return id;
  }

  /**
   * The sends that have no fate yet, oldest first, at most 1,000, and how many there are.
   * @param {{name?: string}} [options] `name`: of another named app of the same user
   * @returns {Promise<import("./types.mjs").PendingReply>}
   */
  async pending({ name } = {}) {
    return /** @type {any} */ ((await this.#session.repeat("pending", { name })).body);
  }

  /**
   * A send by its request id, also when it is final: `state` is then `sent`, `unconfirmed`, `failed` or `cancelled`. Null: it
   * was not accepted, or a day ago, after which ids are forgotten.
   * @param {Uint8Array} requestId
   * @param {{name?: string}} [options] `name`: as in `pending`
   * @returns {Promise<import("./types.mjs").PendingSend | null>}
   */
  async findSend(requestId, { name } = {}) {
    check.bytes("request id", requestId, 16);
    const { body } = await this.#session.repeat("find_send", { request_id: requestId, name });
    return /** @type {any} */ (body).send ?? null;
  }

  /**
   * Cancel a send that was not attempted yet; false: too late, or there is no such send.
   * @param {Uint8Array} requestId
   * @param {{name?: string}} [options] `name`: as in `pending`
   * @returns {Promise<boolean>}
   */
  async cancel(requestId, { name } = {}) {
    check.bytes("request id", requestId, 16);
    return (await this.#session.call("cancel", { request_id: requestId, name })).cancelled;
  }

  /**
   * Acknowledge everything up to an event; without one, up to the last handled one. It is on disk when this resolves.
   * @param {Event | Position} [event]
   */
  async ack(event) {
    const position = event ? /** @type {Position} */ (/** @type {unknown} */ (event)) : this.#session.stream.position;
    if (!position?.stream_id) return; // an event of the client's own
    await this.#session.ack(position);
  }

  /**
   * The node's connection status, and the health of each subscribed content topic.
   * @param {{timeout?: number}} [options]
   * @returns {Promise<Status>}
   */
  async status({ timeout } = {}) {
    /** @type {Record<string, string>} */ const topics = {};
    /** @type {string | undefined} */ let after;
    for (;;) {
      const { body } = await this.#session.repeat("status", { after }, [], timeout);
      const { more, ...part } = /** @type {Status} */ (body);
      Object.assign(topics, part.topics);
      after = Object.keys(part.topics).at(-1);
      if (!more || after === undefined) return { ...part, topics };
    }
  }

  /** Facts about the node: Version, Metrics, MyPeerId, … @param {string[]} [ids] @returns {Promise<Record<string, any>>} */
  async nodeInfo(ids) {
    return (await this.#session.repeat("node.info", { ids })).body.info;
  }

  /** Delete a named app of the same user: its stream, its subscriptions, its position. @param {string} name */
  async forget(name) {
    await this.#session.call("forget", { name });
  }

  /**
   * Any method of the contract: the body of its reply.
   * @param {string} method
   * @param {Record<string, unknown>} [body]
   * @param {number} [timeout]
   * @returns {Promise<Record<string, any>>}
   */
  async call(method, body, timeout) {
    return this.#session.call(method, body, timeout);
  }

  // -- events ----------------------------------------------------------------------------------------------------------

  /**
   * The next event; null when none can come any more. Asking for it says that the one before it is handled.
   * @param {number} [timeout] ms; rejects with `deadline_exceeded` when there is none in that time
   * @returns {Promise<Event | null>}
   */
  nextEvent(timeout) {
    return /** @type {Promise<any>} */ (this.#session.consumer.next(timeout));
  }

  /**
   * Events one after another. A loop that is left keeps its last event in hand: it counts as handled when the next one
   * is asked for, or by `close({ handled: true })`. A later loop goes on behind it.
   * @returns {AsyncIterator<Event, undefined>}
   */
  [Symbol.asyncIterator]() {
    return /** @type {any} */ (this.#session.consumer.events());
  }

  /**
   * Call a function, plain or async, with each event of a kind, or of all (`"*"`); returns what undoes it. Callbacks run
   * one after another, in the events' order. While nothing iterates they run in the background, and other events are
   * passed over; else they run as part of the iteration, which gets the other events. What one throws goes to `onError`.
   * @template {Event["event"] | "*"} K
   * @param {K} kind
   * @param {(event: K extends "*" ? Event : Extract<Event, {event: K}>) => unknown} callback
   * @returns {() => void}
   */
  on(kind, callback) {
    return this.#session.consumer.on(kind, /** @type {any} */ (callback));
  }

  // -- the end ---------------------------------------------------------------------------------------------------------

  /**
   * Acknowledge what was handled (mode `auto`) and leave; a named app goes on in the Messaging API.
   * @param {{handled?: boolean}} [options] `handled: true`: the last event given out was handled too. Else it comes again:
   *   an iterator cannot tell a loop that was left by `break` from one whose body threw.
   */
  async close({ handled = false } = {}) {
    await this.#session.close(handled);
  }

  [Symbol.for("nodejs.asyncDispose")]() {
    return this.close();
  }
}
