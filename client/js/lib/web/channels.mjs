// An app's reliable channels, over the gateway (ipc_schema/SPEC.md, §4.5).
import { toHex } from "../bytes.mjs";
import { bytes, text } from "./arguments.mjs";
import { readPendingInChannel, toBase64 } from "./frames.mjs";

/** @typedef {(op: string, fields?: Record<string, unknown>, timeout?: number) => Promise<any>} Ask */

/** The part of a `MessagingClient` that is about channels. */
export class ChannelMethods {
  #requests;

  /** Not for apps. `repeat` is for idempotent requests. @param {{once: Ask, repeat: Ask}} requests */
  constructor(requests) {
    this.#requests = requests;
  }

  /**
   * Create a reliable channel, or open one that was closed or is locked: our sender id in it. See the Node.js client.
   * @param {string} channelId
   * @param {string} topic its content topic
   * @param {{senderId?: string, profile?: "reference" | "raw" | "js", keys?: Uint8Array[], keepKeys?: boolean, parity?: number,
   *   timeout?: number}} [options]
   * @returns {Promise<string>}
   */
  async createChannel(channelId, topic, { senderId, profile, keys = [], keepKeys, parity, timeout } = {}) {
    text("content topic", topic);
    keys.forEach((key) => bytes("key", key, 32));
    const fields = {
      channelId: text("channel id", channelId), contentTopic: topic, senderId, profile, keys: keys.map(toBase64), keepKeys, parity,
    };
    return (await this.#requests.once("channel_create", fields, timeout)).senderId;
  }

  /** Whether the app has an open channel of that name. @param {string} channelId @returns {Promise<boolean>} */
  async channelExists(channelId) {
    return (await this.channels()).some(({ channel_id, open }) => channel_id === channelId && open);
  }

  /** The app's channels, closed ones too. @returns {Promise<import("./types.mjs").ChannelInfo[]>} */
  async channels() {
    return (await this.#requests.repeat("channel_list")).channels.map(readChannel);
  }

  /**
   * What an open channel waits for, and how much it holds.
   * @param {string} channelId
   * @returns {Promise<import("./types.mjs").ChannelStatusReply>}
   */
  async channelStatus(channelId) {
    const { sends, ...counts } = await this.#requests.repeat("channel_status", { channelId: text("channel id", channelId) });
    return { ...counts, sends: sends.map(readPendingInChannel) };
  }

  /**
   * A send of a channel by its request id, also when it is final. See the Node.js client.
   * @param {string} channelId
   * @param {Uint8Array} requestId
   * @returns {Promise<import("./types.mjs").PendingChannelSend | null>}
   */
  async findChannelSend(channelId, requestId) {
    const fields = { channelId: text("channel id", channelId), requestId: toHex(bytes("request id", requestId, 16)) };
    const { send } = await this.#requests.repeat("channel_find_send", fields);
    return send && readPendingInChannel(send);
  }

  /** Stop to receive and send; the stored state stays. @param {string} channelId */
  async closeChannel(channelId) {
    await this.#requests.repeat("channel_close", { channelId: text("channel id", channelId) });
  }

  /** Close a channel and delete all that is stored of it. @param {string} channelId */
  async forgetChannel(channelId) {
    await this.#requests.once("channel_forget", { channelId: text("channel id", channelId) });
  }

  /**
   * Send a payload of up to some 18 MB, which a frame of the gateway takes: its request id once it is accepted. Its fate
   * follows as events of the channel.
   * @param {string} channelId
   * @param {Uint8Array} payload
   * @param {{ephemeral?: boolean, requestId?: Uint8Array, timeout?: number}} [options]
   * @returns {Promise<Uint8Array>}
   */
  async sendToChannel(channelId, payload, { ephemeral = false, requestId, timeout } = {}) {
    bytes("payload", payload);
    if (requestId !== undefined) bytes("request id", requestId, 16);
    const id = requestId ?? crypto.getRandomValues(new Uint8Array(16));
    const fields = { channelId: text("channel id", channelId), requestId: toHex(id), payload: toBase64(payload), ephemeral };
    await this.#requests.repeat("channel_send", fields, timeout);
    return id;
  }
}

/** @param {any} shown @returns {import("./types.mjs").ChannelInfo} */
const readChannel = ({ channelId, contentTopic, senderId, profile, encrypted, open, locked, hooks }) => ({
  channel_id: channelId, content_topic: contentTopic, sender_id: senderId, profile, encrypted, open, locked, hooks,
});
