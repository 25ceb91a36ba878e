// Small charts in SVG: a line over its area, gaps where nothing is known, and a text for those who do not see it.
import { svg } from "./dom.mjs";

const WIDTH = 240;
const LEAST_SPAN_MS = 60_000;

export class Chart {
  #line; #area; #title; #height; #name; #show;

  /**
   * @param {string} name what is shown
   * @param {(value: number | null) => string} show a value for people
   * @param {{height?: number, tone?: string}} [options]
   */
  constructor(name, show, { height = 44, tone = "one" } = {}) {
    [this.#name, this.#show, this.#height] = [name, show, height];
    this.#title = svg("title");
    this.#area = svg("path", { class: "area" });
    this.#line = svg("path", { class: "line", "vector-effect": "non-scaling-stroke" });
    this.element = svg(
      "svg",
      { class: `chart ${tone}`, viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none", role: "img", height },
      this.#title, this.#area, this.#line,
    );
    this.draw([]);
  }

  /** The width stands for all the points, but for a minute at least. @param {{atMs: number, value: number | null}[]} points */
  draw(points) {
    const spanMs = Math.max(LEAST_SPAN_MS, points.length ? points.at(-1).atMs - points[0].atMs : 0);
    const values = points.map(({ value }) => value).filter((value) => value !== null);
    const top = Math.max(1e-9, ...values) * 1.1;
    const end = points.at(-1)?.atMs ?? 0;
    const x = (atMs) => WIDTH - ((end - atMs) * WIDTH) / spanMs;
    const y = (value) => this.#height - 2 - (value / top) * (this.#height - 5);
    let [line, area, from] = ["", "", null];
    const close = (to) => {
      if (from !== null && to !== null) area += `V${this.#height}H${from}Z`;
      from = null;
    };
    let before = null;
    for (const { atMs, value } of points) {
      const at = x(atMs).toFixed(1);
      if (value === null) close(before);
      else {
        const point = `${at} ${y(value).toFixed(1)}`;
        line += from === null ? `M${point}` : `L${point}`;
        area += from === null ? `M${at} ${this.#height}L${point}` : `L${point}`;
        from ??= at;
      }
      before = value === null ? null : at;
    }
    close(before);
    this.#line.setAttribute("d", line);
    this.#area.setAttribute("d", area);
    const last = points.at(-1)?.value ?? null;
    const most = values.length ? Math.max(...values) : null;
    const least = values.length ? Math.min(...values) : null;
    const text = values.length
      ? `${this.#name}: now ${this.#show(last)}, between ${this.#show(least)} and ${this.#show(most)} since the page was opened`
      : `${this.#name}: nothing known yet`;
    if (this.#title.textContent !== text) this.#title.textContent = text;
    this.element.setAttribute("aria-label", text);
  }
}
