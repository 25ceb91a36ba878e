// A bound on requests under way, with a line in front of it.
import { late } from "./errors.mjs";

/** Lets as many requests in at once as the server takes; the others wait in order. */
export class Turnstile {
  #limit;
  #inside = 0;
  /** @type {Set<() => void>} */
  #waiting = new Set();

  /** @param {number} limit */
  constructor(limit) {
    this.#limit = limit;
  }

  /** Take a place if one is free. */
  tryEnter() {
    if (this.#inside >= this.#limit) return false;
    this.#inside += 1;
    return true;
  }

  /**
   * Resolves when there is a place; it must be given back by `leave`. Rejects at `deadline` (ms, monotonic).
   * @param {number} deadline
   * @param {string} method
   * @returns {Promise<void>}
   */
  enter(deadline, method) {
    return new Promise((resolve, reject) => {
      const turn = () => {
        clearTimeout(timer);
        this.#inside += 1;
        resolve();
      };
      const timer = setTimeout(() => {
        this.#waiting.delete(turn);
        reject(late(method));
      }, Math.max(0, deadline - performance.now()));
      this.#waiting.add(turn);
    });
  }

  leave() {
    this.#inside -= 1;
    this.#admit();
  }

  /** @param {number} limit */
  resize(limit) {
    this.#limit = limit;
    this.#admit();
  }

  #admit() {
    for (const turn of this.#waiting) {
      if (this.#inside >= this.#limit) return;
      this.#waiting.delete(turn);
      turn();
    }
  }
}
