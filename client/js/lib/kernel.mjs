// The client of a kernel, for tools and programs that want the relay without a Messaging API (ipc_schema/SPEC.md, §3).
// It reconnects by itself, repeats its hello and takes its leases again.
import * as check from "./arguments.mjs";
import { Connection } from "./connection.mjs";
import { LogosError, closed } from "./errors.mjs";
import { KernelFeed } from "./feed.mjs";
import { decodeStored } from "./frames.mjs";
import { Leases } from "./leases.mjs";

/** @typedef {import("./kernel-types.mjs").KernelEvent} KernelEvent */
/** @typedef {import("./kernel-types.mjs").StreamState} StreamState */
/** @typedef {import("./kernel-types.mjs").StoreQueryRequest} StoreQuery */
/** The last message handled. @typedef {{epoch: Uint8Array, seq: number}} After */
/** @typedef {{message_hash: Buffer, pubsub_topic: string, content_topic: string, timestamp: number | bigint, meta: Buffer,
 *   ephemeral: boolean, version: number, proof: Buffer, payload: Buffer}} StoredMessage */
/** Oldest first, whatever the direction; `cursor` leads on where there is more; `messages` only with data.
 * @typedef {import("./kernel-types.mjs").StoreQueryReply & {messages?: StoredMessage[]}} StorePage */
/**
 * @typedef {object} KernelOptions
 * @property {string} [name] the consumer's (`[a-z0-9._-]{1,64}`): leases belong to it and are continued by its next
 *   connection; without one the kernel makes one up
 * @property {"tool" | "app" | "mapi"} [kind]
 * @property {number} [timeout] ms to wait for the kernel
 */
/**
 * @typedef {object} PublishOptions
 * @property {string} [pubsubTopic]
 * @property {number} [shard] without it and a pubsub topic the content topic decides
 * @property {number | bigint} [timestamp] ns; without it the kernel's clock
 * @property {Uint8Array} [meta]
 * @property {number} [version]
 * @property {boolean} [ephemeral]
 * @property {Uint8Array} [proof]
 * @property {number} [timeout] ms
 */
/**
 * @typedef {object} FeedOptions
 * @property {number[]} [shards] their messages, leased while the feed is open
 * @property {boolean} [health]
 * @property {boolean} [peers]
 * @property {boolean} [lease] false: no lease, so no replay, and no messages unless another consumer leases the shards
 * @property {Record<number, After>} [after] shard → the last message that an earlier feed gave: what came since is replayed
 * @property {number} [maxBytes] of events that may wait here
 */
/**
 * What a feed needs of its client.
 * @typedef {object} FeedHost
 * @property {Buffer} instance
 * @property {string} eventsEndpoint
 * @property {boolean} connected
 * @property {number} heartbeatMs
 * @property {(shards: number[]) => Promise<StreamState[]>} hold
 * @property {(feed: KernelFeed, shards: number[]) => Promise<void>} drop
 * @property {(method: string) => Promise<import("./connection.mjs").Reply>} ask
 * @property {(stream: string, epoch: Uint8Array, after: number) => Promise<{events: [Buffer, Buffer][], complete: boolean}>} replay
 * @property {() => Promise<boolean>} answers whether its control socket answers
 */

const TIMEOUT_MS = 10_000;
const DIAL_MS = 30_000;
const CONTROL_MS = 1_000;
const HEARTBEAT_MS = 1_000; // until the hello says
const DEFAULT_FEED_BYTES = 8 << 20;

/** A consumer of a kernel. Made by `connect`. */
export class KernelClient {
  #connection; #leases; #endpoints;
  /** @type {Connection | null} */ #control = null;
  /** @type {Record<string, any> | null} */ #hello = null;
  /** @type {Set<KernelFeed>} */ #feeds = new Set();
  /** @type {Promise<unknown>} */ #replaying = Promise.resolve();
  #closed = false;

  /**
   * Connect to a kernel.
   *
   * Rejects with a `LogosError`: `not_ready` (none there in time), `bad_request`, `unsupported_version`, `unauthorised`.
   * @param {string} directory the node's run directory
   * @param {KernelOptions} [options]
   */
  static async connect(directory, options = {}) {
    const client = new KernelClient(directory, options);
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
   * @param {string} directory
   * @param {KernelOptions} options
   */
  constructor(directory, options) {
    check.options(options);
    const { name, kind = "tool" } = options;
    this.#endpoints = check.kernelEndpoints(directory);
    this.#connection = new Connection(this.#endpoints.requests, {
      hello: () => ({ kind, protocol: [1, 1], name }),
      onHello: (body) => this.#greeted(body),
      onDown: (reason) => this.#feeds.forEach((feed) => feed.lost(reason)),
    });
    this.#leases = new Leases(this.#connection);
  }

  /** Close the feeds, release the leases, disconnect. */
  async close() {
    if (this.#closed) return;
    await Promise.all([...this.#feeds].map((feed) => feed.close()));
    this.#closed = true;
    await this.#leases.close().catch(() => {}); // they lapse
    this.#connection.close();
    this.#control?.close();
  }

  [Symbol.for("nodejs.asyncDispose")]() {
    return this.close();
  }

  // -- what is known ---------------------------------------------------------------------------------------------------

  /** Whether the kernel is there now. */
  get connected() {
    return this.#connection.ready;
  }

  /** Random id of the kernel's process. @returns {Buffer} */
  get instance() {
    return this.#hello?.instance;
  }

  /** The name under which the kernel knows us. @returns {string} */
  get consumer() {
    return this.#hello?.consumer;
  }

  /** Name and version of the kernel. @returns {string} */
  get server() {
    return this.#hello?.server;
  }

  /** The network the node is on. @returns {import("./types.mjs").NetworkInfo} */
  get network() {
    return this.#hello?.network;
  }

  /** The kernel's limits. @returns {import("./kernel-types.mjs").KernelLimits} */
  get limits() {
    return this.#hello?.limits;
  }

  // -- relay -----------------------------------------------------------------------------------------------------------

  /**
   * Publish a message: how many peers it went to, and its hash. The same bytes again are not an error and are not sent
   * (`duplicate`), unless `force`.
   *
   * Rejects with `no_peers` (`detail` has `message_hash` and `timestamp`; local readers get the message all the same),
   * `too_large`, `bad_request`, `peer_restarted` (publishing again with the same timestamp is safe).
   * @param {string} topic its content topic
   * @param {Uint8Array} payload
   * @param {PublishOptions & {force?: boolean}} [options]
   * @returns {Promise<import("./kernel-types.mjs").RelayPublishReply>}
   */
  async publish(topic, payload, { force, ...options } = {}) {
    return this.#publish("relay.publish", { force }, topic, payload, options);
  }

  /**
   * Have another node publish a message. `peer`: its id or address, else the kernel chooses.
   * @param {string} topic
   * @param {Uint8Array} payload
   * @param {PublishOptions & {peer?: string}} [options]
   * @returns {Promise<import("./kernel-types.mjs").LightpushPublishReply>}
   */
  async lightPush(topic, payload, { peer, ...options } = {}) {
    return this.#publish("lightpush.publish", { peer }, topic, payload, options);
  }

  /**
   * @param {string} method
   * @param {Record<string, unknown>} body
   * @param {string} topic
   * @param {Uint8Array} payload
   * @param {PublishOptions} options
   * @returns {Promise<any>}
   */
  async #publish(method, body, topic, payload, { pubsubTopic, timeout, ...rest }) {
    check.text("content topic", topic);
    check.bytes("payload", payload);
    const most = this.limits?.blob_bytes;
    if (most && payload.length > most) {
      // Such a frame would cost us the connection: the server's socket refuses it unread.
      const limit = this.network.max_message_size;
      throw new LogosError("too_large", `Message size exceeded maximum of ${limit} bytes: the payload alone has ${payload.length}`);
    }
    const request = { ...rest, ...body, content_topic: topic, pubsub_topic: pubsubTopic };
    return (await this.call(method, request, [Buffer.from(payload)], timeout)).body;
  }

  /** Pubsub topic → peers subscribed to it; of one topic, or all. @param {string} [pubsubTopic] @returns {Promise<Record<string, string[]>>} */
  async relayPeers(pubsubTopic) {
    return (await this.call("relay.peers", { pubsub_topic: pubsubTopic })).body.topics;
  }

  /** Pubsub topic → peers in its mesh; of one topic, or all. @param {string} [pubsubTopic] @returns {Promise<Record<string, string[]>>} */
  async mesh(pubsubTopic) {
    return (await this.call("relay.mesh", { pubsub_topic: pubsubTopic })).body.topics;
  }

  // -- store, peers, node ----------------------------------------------------------------------------------------------

  /**
   * Ask a store for history; a message has to match all that is given. Rejects with `no_peers` (no store, or no usable
   * answer), `bad_request`, `rate_limited`.
   * @param {StoreQuery} query
   * @param {{timeout?: number}} [options]
   * @returns {Promise<StorePage>}
   */
  async queryStore(query, { timeout = DIAL_MS } = {}) {
    const { body, blobs } = await this.call("store.query", { ...query }, [], timeout);
    const page = /** @type {StorePage} */ (body);
    return query.include_data ? { ...page, messages: /** @type {any} */ (decodeStored(page.hashes, blobs)) } : page;
  }

  /** The connected peers. @returns {Promise<import("./kernel-types.mjs").PeerRecord[]>} */
  async peers() {
    return (await this.call("peers.list")).body.peers;
  }

  /**
   * Dial multiaddresses: what became of each.
   * @param {string | string[]} addresses
   * @param {{timeout?: number}} [options]
   * @returns {Promise<import("./kernel-types.mjs").ConnectResult[]>}
   */
  async connectPeers(addresses, { timeout = DIAL_MS } = {}) {
    return (await this.call("peers.connect", { addresses: [addresses].flat() }, [], timeout)).body.results;
  }

  /** Disconnect a peer; false: it was not connected. @param {string} peerId @returns {Promise<boolean>} */
  async disconnectPeer(peerId) {
    return (await this.call("peers.disconnect", { peer_id: peerId })).body.disconnected;
  }

  /** The state of the node, of each protocol and shard, and of its event loop. @returns {Promise<import("./kernel-types.mjs").NodeHealth>} */
  async health() {
    return /** @type {any} */ ((await this.call("node.health")).body);
  }

  /** Facts about the node: Version, Metrics, MyPeerId, … @param {string[]} [ids] @returns {Promise<Record<string, any>>} */
  async info(ids) {
    return (await this.call("node.info", { ids })).body.info;
  }

  /** Each configuration option with its value and source. @returns {Promise<import("./kernel-types.mjs").OptionRecord[]>} */
  async config() {
    return (await this.call("node.config")).body.options;
  }

  /** Name, labels and value of each sample. @returns {Promise<[string, Record<string, string>, number][]>} */
  async metrics() {
    return (await this.call("node.metrics")).body.metrics;
  }

  /**
   * Any method of the contract: its reply.
   * @param {string} method
   * @param {Record<string, unknown>} [body]
   * @param {Uint8Array[]} [blobs]
   * @param {number} [timeout]
   * @returns {Promise<import("./connection.mjs").Reply>}
   */
  async call(method, body = {}, blobs = [], timeout = TIMEOUT_MS) {
    this.#checkOpen();
    return this.#connection.request(method, body, blobs, timeout);
  }

  // -- streams ---------------------------------------------------------------------------------------------------------

  /** Make the kernel join shards and record them, until `release` or `close`; renewed meanwhile. @param {number[]} shards @returns {Promise<StreamState[]>} */
  async lease(shards) {
    this.#checkOpen();
    return this.#leases.hold(shards);
  }

  /** Undo `lease` for these shards (as often as they were leased). @param {number[]} shards */
  async release(shards) {
    this.#checkOpen();
    await this.#leases.release(shards);
  }

  /**
   * Events of streams: resolves to a feed when the subscriptions are in force. Rejects with `not_ready` if they do not
   * come into force.
   * @param {FeedOptions} options
   * @returns {Promise<KernelFeed>}
   */
  async events({ shards = [], health = false, peers = false, lease = true, after = {}, maxBytes = DEFAULT_FEED_BYTES }) {
    this.#checkOpen();
    const name = (/** @type {number | string} */ shard) => `m/${this.network.cluster}/${shard}`;
    const streams = [...shards.map(name), ...(health ? ["p"] : []), ...(peers ? ["n"] : [])];
    if (!streams.length) throw new TypeError("a feed of no stream: name shards, health or peers");
    const feed = new KernelFeed(this.#hosting(), { streams, shards, lease, maxBytes });
    this.#feeds.add(feed);
    return feed.open(Object.fromEntries(Object.entries(after).map(([shard, at]) => [name(shard), at])));
  }

  /**
   * One page of a stream behind `after`, as pairs of header and payload frames, and whether it was the last page.
   * Rejects with `trimmed`, `epoch_changed`, `bad_request`.
   * @param {string} stream
   * @param {Uint8Array} epoch
   * @param {number} after
   * @returns {Promise<{events: [Buffer, Buffer][], complete: boolean}>}
   */
  async replay(stream, epoch, after) {
    // The kernel takes one replay per consumer at a time.
    const page = this.#replaying.then(() => this.call("stream.replay", { stream, epoch, after }));
    this.#replaying = page.catch(() => {});
    const { body, blobs } = await page;
    if (blobs.length !== 2 * body.events) {
      throw new LogosError("bad_request", `stream.replay: ${body.events} events need ${2 * body.events} blobs, not ${blobs.length}`);
    }
    const events = Array.from({ length: body.events }, (_, index) => /** @type {[Buffer, Buffer]} */ (blobs.slice(2 * index, 2 * index + 2)));
    return { events, complete: body.complete };
  }

  // -- the session -----------------------------------------------------------------------------------------------------

  /** @returns {FeedHost} */
  #hosting() {
    const client = this;
    return {
      get instance() {
        return client.instance;
      },
      get connected() {
        return client.connected;
      },
      get eventsEndpoint() {
        return client.#hello?.events || client.#endpoints.events;
      },
      get heartbeatMs() {
        return client.#hello?.heartbeat_ms || HEARTBEAT_MS;
      },
      hold: (shards) => this.lease(shards),
      drop: async (feed, shards) => {
        this.#feeds.delete(feed);
        await this.#leases.release(shards).catch(() => {}); // they lapse
      },
      ask: (method) => this.call(method),
      replay: (stream, epoch, after) => this.replay(stream, epoch, after),
      answers: () => this.#answers(),
    };
  }

  async #answers() {
    this.#control ??= new Connection(this.#endpoints.control, {});
    return this.#control.request("health", {}, [], CONTROL_MS).then(() => true, () => false);
  }

  /** @param {Record<string, any>} body */
  #greeted(body) {
    check.kernelGreeting(body);
    const before = this.#hello;
    this.#hello = body;
    this.#leases.greeted(body.limits.lease_renew_ms);
    if (before) this.#feeds.forEach((feed) => feed.found(!before.instance.equals(body.instance)));
  }

  #checkOpen() {
    if (this.#closed) throw closed();
  }
}
