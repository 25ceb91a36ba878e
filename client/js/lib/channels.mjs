// An app's reliable channels (ipc_schema/SPEC.md, §4.5).
import * as check from "./arguments.mjs";
import { LogosError } from "./errors.mjs";
import { newRequestId } from "./ids.mjs";
import { TIMEOUT_MS } from "./session.mjs";

const BLOB = 1 << 20; // of a payload for a channel, which travels in several; the limit may be below it
const MOST_BLOBS = 64;

/** The part of a `MessagingClient` that is about channels. */
export class ChannelMethods {
  #session;

  /** Not for apps. @param {import("./session.mjs").AppSession} session */
  constructor(session) {
    this.#session = session;
  }

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
    if (hooks && !this.#session.features.includes("channel_hooks")) {
      throw new LogosError("unknown_method", "this Messaging API has no channels with hooks"); // it would ignore the key
    }
    keys?.forEach((key) => check.bytes("key", key, 32));
    const body = {
      channel_id: channelId, content_topic: topic, sender_id: senderId, profile, keys, keep_keys: keepKeys,
      parity_ppm: Math.round(parity * 1e6), hooks,
    };
    return (await this.#session.call("channel.create", body, timeout)).sender_id;
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
    this.#session.hooks.set(channelId, encrypt, decrypt);
  }

  /** Stop using a channel's hooks. Throws `bad_request` where there are none. @param {string} channelId */
  clearChannelEncryption(channelId) {
    check.text("channel id", channelId);
    this.#session.hooks.clear(channelId);
  }

  /** Whether the app has an open channel of that name. @param {string} channelId @returns {Promise<boolean>} */
  async channelExists(channelId) {
    return (await this.#session.repeat("channel.exists", { channel_id: channelId })).body.exists;
  }

  /** The app's channels, closed ones too. @returns {Promise<import("./types.mjs").ChannelInfo[]>} */
  async channels() {
    return (await this.#session.repeat("channel.list")).body.channels;
  }

  /**
   * What an open channel waits for, and how much it holds.
   * @param {string} channelId
   * @returns {Promise<import("./types.mjs").ChannelStatusReply>}
   */
  async channelStatus(channelId) {
    const { body } = await this.#session.repeat("channel.status", { channel_id: channelId });
    return /** @type {any} */ (body);
  }

  /**
   * A send of a channel by its request id, also when it is final: `end` is then `delivered`, `failed` or `undelivered`. Null:
   * it was not accepted, or ended a day ago, after which ids are forgotten.
   * @param {string} channelId
   * @param {Uint8Array} requestId
   * @returns {Promise<import("./types.mjs").PendingChannelSend | null>}
   */
  async findChannelSend(channelId, requestId) {
    check.bytes("request id", requestId, 16);
    const { body } = await this.#session.repeat("channel.find_send", { channel_id: channelId, request_id: requestId });
    return /** @type {any} */ (body).send ?? null;
  }

  /** Stop receiving and sending; a named app's stored state stays. @param {string} channelId */
  async closeChannel(channelId) {
    await this.#session.repeat("channel.close", { channel_id: channelId });
  }

  /** Close a channel and delete all that is stored of it. @param {string} channelId */
  async forgetChannel(channelId) {
    await this.#session.call("channel.forget", { channel_id: channelId });
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
    this.#session.checkOpen();
    const id = requestId ? Buffer.from(requestId) : newRequestId();
    /** @type {Buffer} */ let data = Buffer.from(payload);
    /** @type {import("./channel-hooks.mjs").Sealed | undefined} */ let sealed;
    const deadline = performance.now() + (timeout ?? TIMEOUT_MS);
    if (this.#session.hooks.has(channelId)) {
      const split = await this.#session.repeat("channel.split", { channel_id: channelId }, this.#blobs(data), timeout);
      const sizes = /** @type {any} */ (split.body);
      ({ data, sealed } = await this.#session.hooks.seal(channelId, data, sizes, Buffer.concat(split.blobs)));
    }
    const body = { channel_id: channelId, request_id: id, ephemeral, sealed };
    await this.#session.repeat("channel.send", body, this.#blobs(data), deadline - performance.now());
    return id;
  }

  /** The server's socket would refuse a larger frame unread, which costs the connection. @param {Buffer} data */
  #blobs(data) {
    const size = Math.min(BLOB, this.#session.limits.blob_bytes);
    if (data.length > MOST_BLOBS * size) throw new LogosError("too_large", `${data.length} bytes, at most ${MOST_BLOBS * size}`);
    const blobs = [];
    for (let start = 0; start < data.length; start += size) blobs.push(data.subarray(start, start + size));
    return blobs;
  }
}
