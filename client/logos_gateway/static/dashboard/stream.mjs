// Server-sent events by fetch, since EventSource cannot send a token; reconnects, and knows when nothing comes.

const RETRY_MS = 1_000;
const RETRY_MAX_MS = 15_000;

/** Where the gateway is: this module lies in /dashboard. @param {string} path */
export const url = (path) => new URL(`../${path}`, import.meta.url);

/** What a request was refused with. */
export class Refused extends Error {
  /** @param {number} status @param {string} text */
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** @param {Response} response */
export const refusal = async (response) => {
  const text = await response.text().catch(() => "");
  let detail = text;
  try {
    detail = JSON.parse(text).detail ?? text;
  } catch {
    // not problem details: the text itself
  }
  return new Refused(response.status, String(detail).slice(0, 300) || response.statusText);
};

/** The events in a stream's text, which comes in pieces. */
export class EventParser {
  #rest = "";

  /** @param {string} text @returns {{kind: string, data: any}[]} */
  feed(text) {
    const blocks = (this.#rest + text).split("\n\n");
    this.#rest = /** @type {string} */ (blocks.pop());
    return blocks.flatMap((block) => {
      let [kind, data] = ["message", ""];
      for (const line of block.split("\n")) {
        if (line.startsWith("event: ")) kind = line.slice(7);
        else if (line.startsWith("data: ")) data += line.slice(6);
      }
      return data ? [{ kind, data: JSON.parse(data) }] : [];
    });
  }
}

export class LiveStream {
  #path; #token; #onEvents; #onState;
  /** @type {AbortController | null} */ #abort = null;
  #delay = RETRY_MS;

  /**
   * @param {() => string} path of the stream, asked for at each connection
   * @param {() => string} token
   * @param {(events: {kind: string, data: any}[]) => void} onEvents gets all that came in one piece
   * @param {(state: "connecting" | "live" | "lost" | "stopped", error?: Error) => void} onState
   */
  constructor(path, token, onEvents, onState) {
    this.#path = path;
    this.#token = token;
    this.#onEvents = onEvents;
    this.#onState = onState;
  }

  get running() {
    return this.#abort !== null;
  }

  async start() {
    this.stop();
    const abort = (this.#abort = new AbortController());
    while (!abort.signal.aborted) {
      this.#onState("connecting");
      let error;
      try {
        await this.#read(abort.signal);
        error = new Error("the gateway ended the stream");
      } catch (reason) {
        error = reason;
      }
      if (abort.signal.aborted) return;
      this.#onState("lost", error);
      if (error instanceof Refused && [400, 401, 403].includes(error.status)) {
        this.#abort = null;
        return; // asking again would not help
      }
      await new Promise((resolve) => setTimeout(resolve, this.#delay));
      this.#delay = Math.min(this.#delay * 2, RETRY_MAX_MS);
    }
  }

  stop() {
    if (!this.#abort) return;
    this.#abort.abort();
    this.#abort = null;
    this.#onState("stopped");
  }

  /** @param {AbortSignal} signal */
  async #read(signal) {
    const response = await fetch(url(this.#path()), { headers: headers(this.#token()), signal, cache: "no-store" });
    if (!response.ok || !response.body) throw await refusal(response);
    this.#onState("live");
    this.#delay = RETRY_MS;
    const parser = new EventParser();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const events = parser.feed(value);
      if (events.length && !signal.aborted) this.#onEvents(events);
    }
  }
}

/** @param {string} token */
export const headers = (token) => (token ? { Authorization: `Bearer ${token}` } : {});

/** A JSON answer. Throws `Refused`. @param {string} path @param {string} token @param {RequestInit} [options] */
export const ask = async (path, token, options = {}) => {
  const sent = { ...headers(token), ...(options.body ? { "Content-Type": "application/json" } : {}) };
  const response = await fetch(url(path), { cache: "no-store", ...options, headers: sent });
  if (!response.ok) throw await refusal(response);
  return response.json();
};
