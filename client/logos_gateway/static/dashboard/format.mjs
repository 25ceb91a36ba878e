// Numbers, times and names for people. No document here.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
export const NOTHING = "–";

/** @param {number | null | undefined} value */
export const count = (value) => {
  if (!Number.isFinite(value)) return NOTHING;
  if (Math.abs(value) >= 1e9) return `${(value / 1e9).toFixed(1)} G`;
  if (Math.abs(value) >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  return Math.round(value).toLocaleString("en");
};

/** @param {number | null | undefined} value a rate or a mean, which may be less than one */
export const decimal = (value) => {
  if (!Number.isFinite(value)) return NOTHING;
  if (value === 0) return "0";
  if (Math.abs(value) >= 100) return count(value);
  return Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(2);
};

/** @param {number | null | undefined} value */
export const bytes = (value) => {
  if (!Number.isFinite(value)) return NOTHING;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
};

/** @param {number | null | undefined} ms */
export const span = (ms) => {
  if (!Number.isFinite(ms)) return NOTHING;
  const s = Math.max(0, ms) / 1000;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
};

/** @param {number | null | undefined} seconds of a short operation */
export const duration = (seconds) => {
  if (seconds === Infinity) return "> all bounds";
  if (!Number.isFinite(seconds)) return NOTHING;
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(0)} µs`;
  return seconds < 1 ? `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms` : `${seconds.toFixed(2)} s`;
};

/** @param {number} ms */
export const clock = (ms) => {
  const date = new Date(ms);
  return `${date.toLocaleTimeString("en-GB")}.${String(date.getMilliseconds()).padStart(3, "0")}`;
};

/** The ends of a long id. @param {string} id */
export const short = (id, head = 8, tail = 6) => (id.length > head + tail + 1 ? `${id.slice(0, head)}…${id.slice(-tail)}` : id);

/** `SUFFICIENTLY_HEALTHY` → `sufficiently healthy`. @param {string} word */
export const words = (word) => word.replaceAll("_", " ").toLowerCase();

/** How good a state of the contract is: `good`, `fair`, `bad` or `off`. @param {string} state */
export const grade = (state) =>
  ({
    READY: "good", SUFFICIENTLY_HEALTHY: "good", MINIMALLY_HEALTHY: "fair", SYNCHRONIZING: "fair", INITIALIZING: "fair",
    EVENT_LOOP_LAGGING: "fair", UNHEALTHY: "bad", NOT_READY: "bad", SHUTTING_DOWN: "bad",
  })[state] ?? "off";
