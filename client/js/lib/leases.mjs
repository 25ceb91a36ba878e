// Leases of one consumer, counted by shard and kept renewed (ipc_schema/SPEC.md, §3.2).

const RENEW_MS = 10_000; // until the hello says when
const RETRY_MS = 1_000;
const RELEASE_MS = 1_000;

export class Leases {
  #connection;
  /** @type {Map<number, number>} */ #held = new Map();
  #every = RENEW_MS;
  /** @type {NodeJS.Timeout | undefined} */ #timer;
  #closed = false;

  /** @param {import("./connection.mjs").Connection} connection */
  constructor(connection) {
    this.#connection = connection;
  }

  /** A hello was accepted: the kernel may be another instance, which knows none of them. @param {number} every ms */
  greeted(every) {
    if (Number.isFinite(every) && every > 0) this.#every = every;
    this.#renewIn(0);
  }

  /**
   * Lease shards until `release`; counted, so that several users may hold one.
   * @param {number[]} shards
   * @returns {Promise<import("./kernel-types.mjs").StreamState[]>}
   */
  async hold(shards) {
    const { body } = await this.#connection.request("lease.acquire", { shards });
    for (const shard of shards) this.#held.set(shard, (this.#held.get(shard) ?? 0) + 1);
    return body.leases;
  }

  /** Undo `hold`. A lease that the kernel was not told about is not renewed and lapses. @param {number[]} shards */
  async release(shards) {
    const unused = [];
    for (const shard of shards) {
      const count = this.#held.get(shard);
      if (count === undefined) continue;
      if (count > 1) this.#held.set(shard, count - 1);
      else if (this.#held.delete(shard)) unused.push(shard);
    }
    if (!unused.length || !this.#connection.ready) return;
    await this.#connection.request("lease.release", { shards: unused }, [], RELEASE_MS);
  }

  /** Release all of them. */
  async close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.release([...this.#held].flatMap(([shard, count]) => Array(count).fill(shard)));
  }

  /** @param {number} ms */
  #renewIn(ms) {
    if (this.#closed) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#renew(), ms).unref();
  }

  async #renew() {
    let wait = this.#every;
    const shards = [...this.#held.keys()].sort((a, b) => a - b);
    if (shards.length && this.#connection.ready) {
      await this.#connection.request("lease.acquire", { shards }).catch(() => (wait = Math.min(wait, RETRY_MS)));
    }
    this.#renewIn(wait); // without a connection the next hello does it sooner
  }
}
