// The one kind of error that this package raises for what happens outside of it.

import { CODES, RETRIABLE_CODES } from "./contract.mjs";

/**
 * What a server answered, what became of a connection, or frames that are not what the contract says.
 * Wrong arguments that no server needs to see are a `TypeError`.
 */
export class LogosError extends Error {
  /**
   * @param {string} code one of the contract's closed list; one that is not in it becomes `internal`
   * @param {string} message for people
   * @param {{retriable?: boolean | null, retry_after_ms?: number | null, detail?: Record<string, unknown> | null}} [rest]
   */
  constructor(code, message, { retriable, retry_after_ms, detail } = {}) {
    super(`${code}: ${message}`);
    this.name = "LogosError";
    /** @type {string} */
    this.code = CODES.includes(code) ? code : "internal";
    /** Whether the same request may succeed later. @type {boolean} */
    this.retriable = retriable ?? RETRIABLE_CODES.includes(this.code);
    /** When, in milliseconds, where the server says so. @type {number | undefined} */
    this.retry_after_ms = retry_after_ms ?? undefined;
    /** What else the server said. @type {Record<string, unknown>} */
    this.detail = detail ?? {};
  }
}

/** @param {string} method */
export const late = (method) => new LogosError("deadline_exceeded", `${method}: no answer in time`);
export const closed = () => new LogosError("not_ready", "the client is closed", { retriable: false });

/** Whether a connection was lost, so that what became of a request is unknown. @param {unknown} error */
export const isLost = (error) => error instanceof LogosError && error.code === "peer_restarted";

/**
 * Make an idempotent request: a lost connection is no reason to give up.
 * @template T
 * @param {(remaining: number) => Promise<T>} attempt gets the milliseconds that are left
 * @param {number} timeout ms
 * @returns {Promise<T>}
 */
export async function repeat(attempt, timeout) {
  const deadline = performance.now() + timeout;
  for (;;) {
    try {
      return await attempt(deadline - performance.now());
    } catch (error) {
      if (!isLost(error) || performance.now() >= deadline) throw error;
    }
  }
}
