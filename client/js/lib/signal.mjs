// Waits that end when something happens.
export class Signal {
  /** @type {Set<() => void>} */ #waiting = new Set();

  fire() {
    for (const done of [...this.#waiting]) done();
  }

  /** Whether it happened within `ms`. @param {number} [ms] @returns {Promise<boolean>} */
  wait(ms) {
    return new Promise((resolve) => {
      /** @param {boolean} happened */
      const end = (happened) => (clearTimeout(timer), this.#waiting.delete(done), resolve(happened));
      const done = () => end(true);
      const timer = ms === undefined ? undefined : setTimeout(() => end(false), Math.max(0, ms));
      this.#waiting.add(done);
    });
  }
}
