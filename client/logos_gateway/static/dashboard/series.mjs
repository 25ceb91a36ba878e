// Values over time, and what can be said of two looks at a counter. No document here.

/** The last `limit` values with their times, oldest first. */
export class Series {
  #limit;
  points = [];

  constructor(limit = 150) {
    this.#limit = limit;
  }

  /** @param {number} atMs @param {number | null} value null: nothing is known of this moment */
  add(atMs, value) {
    this.points.push({ atMs, value });
    if (this.points.length > this.#limit) this.points.shift();
  }

  get last() {
    return this.points.at(-1)?.value ?? null;
  }
}

/** The rate of a counter that grows: what it gained in a second between two looks. */
export class Rate {
  #before = null;
  series;

  constructor(limit) {
    this.series = new Series(limit);
  }

  /** @param {number} atMs @param {number | null | undefined} total a smaller one than before: it began again at zero */
  look(atMs, total) {
    const before = this.#before;
    const known = Number.isFinite(total);
    this.#before = known ? { atMs, total } : null;
    if (!known || !before || atMs <= before.atMs) {
      if (before || !known) this.series.add(atMs, null);
      return;
    }
    const gained = total >= before.total ? total - before.total : total;
    this.series.add(atMs, (gained * 1000) / (atMs - before.atMs));
  }

  get last() {
    return this.series.last;
  }
}

/** Quantiles of what a histogram counted between two looks at it. */
export class Quantiles {
  #looks = [];
  #windowMs;

  /** @param {number} windowMs how far back the older look lies, at most */
  constructor(windowMs = 300_000) {
    this.#windowMs = windowMs;
  }

  /** @param {number} atMs @param {{count: number, seconds: number, buckets: [number | null, number][]}} histogram */
  look(atMs, histogram) {
    const last = this.#looks.at(-1);
    if (last && histogram.count < last.histogram.count) this.#looks = [];
    this.#looks.push({ atMs, histogram });
    while (this.#looks.length > 2 && atMs - this.#looks[0].atMs > this.#windowMs) this.#looks.shift();
  }

  /** How many observations there were, and their mean in seconds; since the start where only one look was taken. */
  summary() {
    const [first, last] = this.#ends();
    if (!last) return { count: 0, mean: null };
    const count = last.count - (first?.count ?? 0);
    return { count, mean: count ? (last.seconds - (first?.seconds ?? 0)) / count : null };
  }

  /** The upper bound (seconds) below which the share `q` of them lies; null without any, Infinity beyond all bounds. */
  at(q) {
    const [first, last] = this.#ends();
    if (!last) return null;
    const counts = last.buckets.map(([edge, count], index) => [edge, count - (first?.buckets[index]?.[1] ?? 0)]);
    const all = counts.at(-1)?.[1] ?? 0;
    if (!all) return null;
    const edge = counts.find(([, count]) => count >= all * q)?.[0];
    return edge ?? Infinity;
  }

  /** The look to compare with, and the last one. Where nothing was counted in the window, all since the start. */
  #ends() {
    const last = this.#looks.at(-1)?.histogram;
    const first = this.#looks.length > 1 ? this.#looks[0].histogram : null;
    return first && last.count > first.count ? [first, last] : [null, last];
  }
}
