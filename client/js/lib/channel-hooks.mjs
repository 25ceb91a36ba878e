// Encryption of a channel's segments by functions of the app, in the app's process (ipc_schema/SPEC.md, §4.5, hooks).
import { createHash } from "node:crypto";
import { LogosError } from "./errors.mjs";

/** Encrypts or decrypts one segment of a payload. @typedef {(segment: Buffer) => Uint8Array | Promise<Uint8Array>} Hook */
/** @typedef {{sizes: number[], needed: number, digest: Buffer}} Sealed */

const MAX_REASON = 250; // characters of a hook's error that are passed on: at most 1,000 bytes

/** The hooks of one app's channels. They outlive connections and channels. */
export class ChannelHooks {
  /** @type {Map<string, {encrypt: Hook, decrypt: Hook}>} */ #pairs = new Map();

  /** @param {string} channelId */
  has(channelId) {
    return this.#pairs.has(channelId);
  }

  /** @param {string} channelId @param {Hook} encrypt @param {Hook} decrypt */
  set(channelId, encrypt, decrypt) {
    if (typeof encrypt !== "function" || typeof decrypt !== "function") throw new TypeError("encrypt and decrypt are functions");
    this.#pairs.set(channelId, { encrypt, decrypt });
  }

  /** Throws `LogosError` where there are none. @param {string} channelId */
  clear(channelId) {
    if (!this.#pairs.delete(channelId)) throw new LogosError("bad_request", `no encryption registered for channel: ${channelId}`);
  }

  /**
   * Encrypt the segments of a payload, which stand one after the other in `data`. Throws `LogosError` if the hook fails.
   * @param {string} channelId
   * @param {Uint8Array} payload
   * @param {{sizes: number[], needed: number}} split
   * @param {Buffer} data
   * @returns {Promise<{data: Buffer, sealed: Sealed}>}
   */
  async seal(channelId, payload, { sizes, needed }, data) {
    const { encrypt } = this.#pair(channelId);
    const segments = [];
    let start = 0;
    try {
      for (const size of sizes) segments.push(bytesOf(await encrypt(data.subarray(start, (start += size)))));
    } catch (error) {
      throw new LogosError("bad_request", `encryption failed: ${reasonOf(error)}`);
    }
    const digest = createHash("sha256").update(payload).digest(); // an encryption may differ each time, the payload may not
    return { data: Buffer.concat(segments), sealed: { sizes: segments.map(({ length }) => length), needed, digest } };
  }

  /**
   * Decrypt a segment; or why that failed.
   * @param {string} channelId
   * @param {Buffer} sealed
   * @returns {Promise<{content: Uint8Array, error?: undefined} | {content?: undefined, error: string}>}
   */
  async open(channelId, sealed) {
    try {
      return { content: bytesOf(await this.#pair(channelId).decrypt(sealed)) };
    } catch (error) {
      return { error: reasonOf(error).slice(0, MAX_REASON) };
    }
  }

  /** @param {string} channelId */
  #pair(channelId) {
    return /** @type {{encrypt: Hook, decrypt: Hook}} */ (this.#pairs.get(channelId));
  }
}

/** @param {unknown} value @returns {Uint8Array} */
const bytesOf = (value) => {
  if (value instanceof Uint8Array) return value;
  throw new TypeError(`a hook returns bytes, not ${typeof value}`);
};

/** @param {unknown} error */
const reasonOf = (error) => (error instanceof Error && error.message) || String(error);
