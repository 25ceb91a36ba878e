// The client of a Messaging API: subscribe, send, and one ordered stream of events with byte credit, acks and
// resumption (ipc_schema/SPEC.md, §4). It reconnects by itself.
import { randomBytes } from "node:crypto";
import { messagingEndpoint } from "./arguments.mjs";
import * as check from "./arguments.mjs";
import { ChannelHooks } from "./channel-hooks.mjs";
import { Connection } from "./connection.mjs";
import { EventConsumer } from "./consumer.mjs";
import { LogosError, closed, repeat } from "./errors.mjs";
import { AppEvent } from "./events.mjs";
import { decodeEvent } from "./frames.mjs";
import { AppStream } from "./stream.mjs";

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

const ACK_DELAY_MS = 100; // one ack for all that was handled in this time: for a named app it is a write to the disk
const RETRY_MS = 200;
const RETRY_MAX_MS = 5_000;
const LEAVE_MS = 2_000;
const TIMEOUT_MS = 10_000;
const DEFAULT_CREDIT = 2 << 20;
const BLOB = 1 << 20; // of a payload for a channel, which travels in several; the limit may be below it
const MOST_BLOBS = 64;

/** @param {unknown} error @param {Event} event */
const complain = (error, event) => console.error(`a callback for ${event.event} failed:`, error); // never the payload

/** An app's connection to a Messaging API. Made by `connect`. */
export class MessagingClient {
  #connection; #stream; #consumer; #autoAck;
  /** @type {Set<string>} */ #topics = new Set();
  /** @type {Record<string, any> | null} */ #greeting = null;
  /** @type {Status | null} */ #status = null;
  #hooks = new ChannelHooks();
  #offered = 0;
  /** Until the app is told. @type {Position | null} */ #lost = null;
  /** @type {NodeJS.Timeout | null} */ #timer = null;
  #closed = false;
  #takenOver = false;

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
      await client.#connection.whenReady(performance.now() + (options.timeout ?? TIMEOUT_MS));
      // A first hello's list that goes on (§4.2): a server that loses the app's subscriptions gets all of them again.
      if (client.#greeting?.more) (await client.subscriptions()).forEach((topic) => client.#topics.add(topic));
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
    this.#autoAck = ack === "auto";
    this.#stream = new AppStream(credit);
    this.#consumer = new EventConsumer(this.#stream, {
      settle: () => this.#settle(),
      openSegment: (event) => this.#openSegment(event),
      onError: /** @type {any} */ (onError),
    });
    this.#connection = new Connection(messagingEndpoint(endpoint), {
      hello: () => {
        this.#offered = this.#stream.openingCredit();
        // Taking over is for the first time only: two that both insist would take turns for ever.
        const insist = takeover && !this.#greeting;
        return { kind: "app", protocol: [1, 1], name, takeover: insist, credit: this.#offered, seen: this.#seen() };
      },
      onHello: (body) => this.#greeted(body),
      onDown: (reason) => this.#linkLost(reason),
      onEvent: (frames) => this.#receive(frames),
      keepalive: "ping",
    });
  }

  // -- what is known ---------------------------------------------------------------------------------------------------

  /** Whether the Messaging API is there now (not whether its node has peers: see `status`). */
  get connected() {
    return this.#connection.ready;
  }

  /** The app's name; one made up by the Messaging API when it is ephemeral. @returns {string} */
  get name() {
    return this.#greeting?.app;
  }

  /** Whether the app's stream outlives its connection. @returns {boolean} */
  get durable() {
    return this.#greeting?.durable;
  }

  /** Name and version of the Messaging API. @returns {string} */
  get server() {
    return this.#greeting?.server;
  }

  /** What the Messaging API can do beyond the first version of the contract. @returns {string[]} */
  get features() {
    return this.#greeting?.features ?? [];
  }

  /** The network the node is on. @returns {import("./types.mjs").NetworkInfo} */
  get network() {
    return this.#greeting?.network;
  }

  /** The Messaging API's limits; `max_payload` is what surely fits a message. @returns {import("./types.mjs").MapiLimits} */
  get limits() {
    return this.#greeting?.limits;
  }

  /**
   * The node's status as far as it is known here, without a request: that of the hello, and what events have brought
   * since. @returns {Status}
   */
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
  async subscribe(topics, { sinceLast, historyMs, timeout } = {}) {
    const wanted = check.topics(topics);
    const body = { topics: wanted, since_last: sinceLast, history_ms: historyMs };
    const { errors } = await this.#repeat("subscribe", body, [], timeout);
    wanted.filter((topic) => !Object.hasOwn(errors, topic)).forEach((topic) => this.#topics.add(topic));
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
    const { errors } = await this.call("unsubscribe", { topics: unwanted }, timeout);
    unwanted.forEach((topic) => this.#topics.delete(topic));
    return errors;
  }

  /** The app's content topics. @param {{timeout?: number}} [options] @returns {Promise<string[]>} */
  async subscriptions({ timeout } = {}) {
    /** @type {string[]} */ const found = [];
    for (;;) {
      const { topics, more } = await this.#repeat("subscriptions", { after: found.at(-1) }, [], timeout);
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
    this.#checkOpen();
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
    const id = Buffer.from(requestId ?? randomBytes(16));
    const body = { request_id: id, content_topic: topic, meta, ephemeral, timestamp };
    await this.#repeat("send", body, [Buffer.from(payload)], timeout);
    return id;
  }

  // -- reliable channels -----------------------------------------------------------------------------------------------

  /**
   * Create a reliable channel, or open one that was closed or is locked: our sender id in it.
   * @param {string} channelId
   * @param {string} topic its content topic
   * @param {{senderId?: string, profile?: "reference" | "raw" | "js", keys?: Uint8Array[], keepKeys?: boolean, parity?: number,
   *   hooks?: boolean, timeout?: number}} [options] `keys`: of 32 bytes; the first encrypts. `keepKeys`: stored, so that the channel opens by
   *   itself after a restart. `parity`: parity segments per data segment, 0 to 1. `hooks`: instead of keys, the functions of
   *   `setChannelEncryption` encrypt; only with profile `reference`
   * @returns {Promise<string>}
   */
  async createChannel(channelId, topic, { senderId, profile, keys, keepKeys, parity = 0, hooks, timeout } = {}) {
    check.text("channel id", channelId);
    check.text("content topic", topic);
    if (hooks && !this.features.includes("channel_hooks")) {
      throw new LogosError("unknown_method", "this Messaging API has no channels with hooks"); // it would ignore the key
    }
    keys?.forEach((key) => check.bytes("key", key, 32));
    const body = {
      channel_id: channelId, content_topic: topic, sender_id: senderId, profile, keys, keep_keys: keepKeys,
      parity_ppm: Math.round(parity * 1e6), hooks,
    };
    return (await this.call("channel.create", body, timeout)).sender_id;
  }

  /**
   * Encrypt a channel created with `hooks` by functions of the app, which run here, in its process. Each takes one segment
   * of a payload and returns it encrypted or decrypted, or a promise of it, as the reference's hooks do. Set them before
   * events are requested; whether the channel exists does not matter. If `encrypt` throws, the send rejects with
   * `bad_request` (`encryption failed: …`) and nothing is sent; a segment at which `decrypt` throws comes as
   * `channel_message_lost`. Without hooks the app gets `channel_segment_received`, and can neither send nor read.
   * @param {string} channelId
   * @param {import("./channel-hooks.mjs").Hook} encrypt
   * @param {import("./channel-hooks.mjs").Hook} decrypt
   */
  setChannelEncryption(channelId, encrypt, decrypt) {
    check.text("channel id", channelId);
    this.#hooks.set(channelId, encrypt, decrypt);
  }

  /** Use a channel's hooks no more. Throws `bad_request` where there are none. @param {string} channelId */
  clearChannelEncryption(channelId) {
    check.text("channel id", channelId);
    this.#hooks.clear(channelId);
  }

  /** Whether the app has an open channel of that name. @param {string} channelId @returns {Promise<boolean>} */
  async channelExists(channelId) {
    return (await this.#repeat("channel.exists", { channel_id: channelId })).exists;
  }

  /** The app's channels, closed ones too. @returns {Promise<import("./types.mjs").ChannelInfo[]>} */
  async channels() {
    return (await this.#repeat("channel.list")).channels;
  }

  /**
   * What an open channel waits for, and how much it holds.
   * @param {string} channelId
   * @returns {Promise<import("./types.mjs").ChannelStatusReply>}
   */
  channelStatus(channelId) {
    return this.#repeat("channel.status", { channel_id: channelId });
  }

  /** Stop to receive and send; a named app's stored state stays. @param {string} channelId */
  async closeChannel(channelId) {
    await this.#repeat("channel.close", { channel_id: channelId });
  }

  /** Close a channel and delete all that is stored of it. @param {string} channelId */
  async forgetChannel(channelId) {
    await this.call("channel.forget", { channel_id: channelId });
  }

  /**
   * Send a payload of up to some 25 MB: its request id once it is accepted. `channel_message_sent` follows, and one of
   * `channel_message_delivered`, `channel_message_error`, `channel_delivery_error` is its end.
   * @param {string} channelId
   * @param {Uint8Array} payload
   * @param {{ephemeral?: boolean, requestId?: Uint8Array, timeout?: number}} [options]
   * @returns {Promise<Buffer>}
   */
  async sendToChannel(channelId, payload, { ephemeral = false, requestId, timeout } = {}) {
    check.text("channel id", channelId);
    check.bytes("payload", payload);
    if (requestId !== undefined) check.bytes("request id", requestId, 16);
    this.#checkOpen();
    const id = Buffer.from(requestId ?? randomBytes(16));
    /** @type {Buffer} */ let data = Buffer.from(payload);
    /** @type {import("./channel-hooks.mjs").Sealed | undefined} */ let sealed;
    const deadline = performance.now() + (timeout ?? TIMEOUT_MS);
    if (this.#hooks.has(channelId)) {
      const split = await this.#repeatWhole("channel.split", { channel_id: channelId }, this.#blobs(data), timeout);
      const sizes = /** @type {any} */ (split.body);
      ({ data, sealed } = await this.#hooks.seal(channelId, data, sizes, Buffer.concat(split.blobs)));
    }
    const body = { channel_id: channelId, request_id: id, ephemeral, sealed };
    await this.#repeat("channel.send", body, this.#blobs(data), deadline - performance.now());
    return id;
  }

  /** The server's socket would refuse a larger frame unread, which costs the connection. @param {Buffer} data */
  #blobs(data) {
    const size = Math.min(BLOB, this.limits.blob_bytes);
    if (data.length > MOST_BLOBS * size) throw new LogosError("too_large", `${data.length} bytes, at most ${MOST_BLOBS * size}`);
    const blobs = [];
    for (let start = 0; start < data.length; start += size) blobs.push(data.subarray(start, start + size));
    return blobs;
  }

  /**
   * Decrypt a segment and give it back. False: there are no hooks for its channel.
   *
   * The event counts as handled, and so may be acknowledged, only when the Messaging API has the segment: until then it
   * comes again. Given back twice, it does no harm.
   * @param {any} event
   */
  async #openSegment({ channel_id, message_id, payload }) {
    if (!this.#hooks.has(channel_id)) return false;
    const { content, error } = await this.#hooks.open(channel_id, payload);
    for (let delay = RETRY_MS; !this.#closed && !this.#takenOver; delay = Math.min(delay * 2, RETRY_MAX_MS)) {
      try {
        await this.#connection.request("channel.opened", { channel_id, message_id, error }, content ? [content] : []);
        break;
      } catch (failure) {
        if (!(failure instanceof LogosError)) throw failure;
        if (!failure.retriable) break; // closed or forgotten: a channel that is opened again gives its segments again
      }
      await new Promise((resolve) => setTimeout(resolve, delay).unref());
    }
    return true;
  }

  /**
   * The sends that have no fate yet, oldest first, at most 1,000, and how many there are.
   * @param {{name?: string}} [options] `name`: of another named app of the same user
   * @returns {Promise<import("./types.mjs").PendingReply>}
   */
  pending({ name } = {}) {
    return this.#repeat("pending", { name });
  }

  /**
   * Cancel a send that was not attempted yet; false: too late, or there is no such send.
   * @param {Uint8Array} requestId
   * @param {{name?: string}} [options] `name`: as in `pending`
   * @returns {Promise<boolean>}
   */
  async cancel(requestId, { name } = {}) {
    check.bytes("request id", requestId, 16);
    return (await this.call("cancel", { request_id: requestId, name })).cancelled;
  }

  /**
   * Acknowledge everything up to an event; without one, up to the last handled one. It is on disk when this resolves.
   * @param {Event | Position} [event]
   */
  async ack(event) {
    const position = event ? /** @type {Position} */ (/** @type {unknown} */ (event)) : this.#stream.position;
    if (!position?.stream_id) return; // an event of the client's own
    await this.call("ack", { stream: position.stream_id, seq: position.seq });
    this.#stream.acked(position);
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
      const { more, ...part } = await this.#repeat("status", { after }, [], timeout);
      Object.assign(topics, part.topics);
      after = Object.keys(part.topics).at(-1);
      if (!more || after === undefined) return { ...part, topics };
    }
  }

  /** Facts about the node: Version, Metrics, MyPeerId, … @param {string[]} [ids] @returns {Promise<Record<string, any>>} */
  async nodeInfo(ids) {
    return (await this.#repeat("node.info", { ids })).info;
  }

  /** Delete a named app of the same user: its stream, its subscriptions, its position. @param {string} name */
  async forget(name) {
    await this.call("forget", { name });
  }

  /**
   * Any method of the contract: the body of its reply.
   * @param {string} method
   * @param {Record<string, unknown>} [body]
   * @param {number} [timeout]
   * @returns {Promise<Record<string, any>>}
   */
  async call(method, body = {}, timeout = TIMEOUT_MS) {
    this.#checkOpen();
    return (await this.#connection.request(method, body, [], timeout)).body;
  }

  /**
   * A request that done twice is done once: a lost connection is no reason to give up.
   * @param {string} method
   * @param {Record<string, unknown>} [body]
   * @param {Uint8Array[]} [blobs]
   * @param {number} [timeout]
   * @returns {Promise<any>}
   */
  async #repeat(method, body = {}, blobs = [], timeout = TIMEOUT_MS) {
    return (await this.#repeatWhole(method, body, blobs, timeout)).body;
  }

  /**
   * As `#repeat`, with the blobs of the reply.
   * @param {string} method
   * @param {Record<string, unknown>} body
   * @param {Uint8Array[]} blobs
   * @param {number} [timeout]
   */
  #repeatWhole(method, body, blobs, timeout = TIMEOUT_MS) {
    return repeat((remaining) => {
      this.#checkOpen();
      return this.#connection.request(method, body, blobs, remaining);
    }, timeout);
  }

  #checkOpen() {
    if (this.#takenOver) throw new LogosError("conflict", "another connection has taken over this app's name");
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

  /**
   * Events one after another. A loop that is left keeps its last event in hand: it counts as handled when the next one
   * is asked for, or by `close({ handled: true })`. A later loop goes on behind it.
   * @returns {AsyncIterator<Event, undefined>}
   */
  [Symbol.asyncIterator]() {
    return /** @type {any} */ (this.#consumer.events());
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
    return this.#consumer.on(kind, /** @type {any} */ (callback));
  }

  // -- the end ---------------------------------------------------------------------------------------------------------

  /**
   * Acknowledge what was handled (mode `auto`) and leave; a named app goes on in the Messaging API.
   * @param {{handled?: boolean}} [options] `handled: true`: the last event given out was handled too. Else it comes again:
   *   an iterator cannot tell a loop that was left by `break` from one whose body threw.
   */
  async close({ handled = false } = {}) {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#timer) clearTimeout(this.#timer);
    if (handled && !this.#consumer.opening) this.#stream.handled();
    if (this.#connection.ready && !this.#takenOver) {
      try {
        const due = this.#autoAck ? this.#stream.ackDue() : null;
        if (due) await this.#connection.request("ack", { stream: due.stream_id, seq: due.seq }, [], LEAVE_MS);
        await this.#connection.request("goodbye", {}, [], LEAVE_MS);
      } catch (error) {
        if (!(error instanceof LogosError)) throw error; // a server that is gone: what it did not take comes again
      }
    }
    this.#connection.close();
    this.#consumer.end();
  }

  [Symbol.for("nodejs.asyncDispose")]() {
    return this.close();
  }

  // -- the session -----------------------------------------------------------------------------------------------------

  /** The last event that came here, by which a server notices that an older state was put back. */
  #seen() {
    const { streamId: stream, lastSeq: seq } = this.#stream;
    return this.#greeting && stream && seq ? { stream, seq, instance: this.#greeting.instance } : undefined;
  }

  /** @param {Record<string, any>} hello */
  #greeted(hello) {
    check.greeting(hello);
    const { stream, subscriptions } = hello;
    const first = !this.#greeting;
    this.#greeting = hello;
    this.#status = hello.status;
    const lost = this.#stream.greeted(stream.id, stream.acked, this.#offered);
    this.#lost ??= lost; // the connection may be lost again before the app is told: what it has events of is the first stream
    if (first) return subscriptions.forEach((/** @type {string} */ topic) => this.#topics.add(topic));
    const known = new Set(subscriptions);
    // A list that goes on is sorted by code points (§4.2): it says nothing about what lies behind its end.
    const end = hello.more ? Buffer.from(subscriptions.at(-1)) : null;
    const told = (/** @type {string} */ topic) => !end || Buffer.from(topic).compare(end) < 0;
    const missing = [...this.#topics].filter((topic) => !known.has(topic) && told(topic)).sort();
    if (missing.length) setImmediate(() => this.#resubscribe(missing));
    else this.#linkRestored({});
    this.#settleLater(); // what was handled meanwhile
  }

  /** Ask again for what the Messaging API does not know of us any more. @param {string[]} topics */
  async #resubscribe(topics) {
    /** @type {Record<string, string>} */ let errors;
    for (let delay = RETRY_MS; ; delay = Math.min(delay * 2, RETRY_MAX_MS)) {
      try {
        errors = (await this.#connection.request("subscribe", { topics })).body.errors;
        break;
      } catch (error) {
        if (!(error instanceof LogosError)) throw error;
        if (error.code === "peer_restarted" || !this.#connection.ready) return; // the next hello does it
        if (!error.retriable) {
          errors = Object.fromEntries(topics.map((topic) => [topic, error.message]));
          break;
        }
      }
      await new Promise((resolve) => setTimeout(resolve, delay).unref());
    }
    Object.keys(errors).forEach((topic) => this.#topics.delete(topic));
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
      last_seq: lost?.seq ?? this.#stream.lastSeq,
      subscription_errors: errors,
    });
  }

  /** @param {string} reason */
  #linkLost(reason) {
    if (!this.#takenOver) this.#putLocal({ event: "link_lost", reason });
  }

  /** @param {Record<string, unknown>} fields */
  #putLocal(fields) {
    this.#stream.putLocal(new AppEvent(fields));
    this.#consumer.wake();
  }

  /** @param {Buffer[]} frames */
  #receive(frames) {
    let decoded;
    try {
      decoded = decodeEvent(frames);
    } catch {
      return this.#stream.garbage();
    }
    const event = this.#stream.receive(decoded, frames[1].length + (frames[2]?.length ?? 0));
    if (!event) return this.#settle(); // what was dropped gives its credit back too
    if (event.event === "taken_over") {
      this.#takenOver = true;
      this.#connection.close();
    }
    this.#noteStatus(event);
    this.#consumer.wake();
  }

  /** @param {any} event */
  #noteStatus({ event, status, reason, content_topic, health }) {
    const known = /** @type {Status} */ (this.#status);
    if (event === "connection_status_change") this.#status = { ...known, connection: status, reason };
    else if (event === "content_topic_health_change") {
      this.#status = { ...known, topics: { ...known.topics, [content_topic]: health } };
    }
  }

  /** Give credit back, and see to it that an ack follows soon. */
  #settle() {
    if (this.#closed || this.#takenOver) return;
    const total = this.#stream.creditDue();
    if (total !== null && this.#connection.tell("credit", { total })) this.#stream.granted(total);
    if (this.#autoAck && this.#stream.ackDue()) this.#settleLater();
  }

  #settleLater() {
    if (this.#closed) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      const due = this.#autoAck ? this.#stream.ackDue() : null;
      if (due && this.#connection.tell("ack", { stream: due.stream_id, seq: due.seq })) this.#stream.acked(due);
      this.#settle();
    }, ACK_DELAY_MS);
  }
}
