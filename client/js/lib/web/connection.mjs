// One WebSocket to a gateway: requests with answers, events, reconnection.
import { LogosError, closed, late } from "../errors.mjs";
import { decodeFrame } from "./frames.mjs";

/** @typedef {import("./frames.mjs").Frame} Frame */
/** @typedef {"connecting" | "greeting" | "ready" | "failed" | "closed"} State */

const PROTOCOL = "logos.json.v1";
const BEARER = "logos.bearer.";
const RETRY_MS = 200;
const RETRY_MAX_MS = 5_000;
// A Messaging API may still take our gateway's dead predecessor for a live connection.
const CONFLICT_GRACE_MS = 10_000;
const PING_MS = 15_000;
const SILENT_MS = 10_000; // for a ping to be answered

const CODES = /** @type {Record<number, string>} */ ({
  4400: "bad_request", 4401: "unauthorised", 4403: "unauthorised", 4409: "conflict", 4429: "rate_limited",
});

const lost = (reason = "the connection was lost") => new LogosError("peer_restarted", reason);

export class SocketConnection {
  /** @type {State} */ state = "connecting";
  counters = { opened: 0, requests: 0, garbage: 0, unmatched: 0 };
  #handlers;
  /** @type {WebSocket | null} */ #socket = null;
  /** @type {Map<number, {settle: (error: Error | null, answer?: any) => void}>} */ #pending = new Map();
  /** @type {Set<() => void>} */ #changed = new Set();
  #nextId = 1;
  #delay = RETRY_MS;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #retry;
  /** @type {ReturnType<typeof setInterval> | undefined} */ #pinging;
  /** @type {LogosError | null} */ #failure = null;
  /** @type {number | null} */ #conflictSince = null;

  /**
   * `url()`: where to connect, asked for each time. `token()`: the bearer token, empty for none. `onOpen()`: the socket is
   * open, before anything else comes; `onReady(hello)`: the app is there; a `LogosError` that it throws ends the connection.
   * @param {{url: () => URL, token: () => string, onOpen: () => void, onReady: (hello: any) => void,
   *   onDown: (reason: string) => void, onEvent: (shown: import("./frames.mjs").Shown) => void}} handlers
   */
  constructor(handlers) {
    this.#handlers = handlers;
    this.#open();
  }

  get ready() {
    return this.state === "ready";
  }

  #open() {
    const token = this.#handlers.token();
    // A page cannot set headers on a WebSocket: the token goes as the name of a subprotocol.
    const socket = new WebSocket(this.#handlers.url(), token ? [PROTOCOL, BEARER + token] : [PROTOCOL]);
    this.#socket = socket;
    this.#setState("connecting");
    socket.addEventListener("open", () => socket === this.#socket && this.#opened());
    socket.addEventListener("message", ({ data }) => socket === this.#socket && this.#message(data));
    socket.addEventListener("close", ({ code, reason }) => socket === this.#socket && this.#lose(code, reason));
  }

  async #opened() {
    this.counters.opened += 1;
    this.#setState("greeting");
    this.#handlers.onOpen();
    const socket = this.#socket;
    try {
      this.#handlers.onReady(await this.#ask("hello", {}, performance.now() + SILENT_MS));
    } catch {
      if (socket === this.#socket) this.#drop();
      return;
    }
    [this.#delay, this.#failure, this.#conflictSince] = [RETRY_MS, null, null];
    this.#setState("ready");
    // A connection whose other end is gone without a word is noticed by nothing else in a browser.
    this.#pinging = setInterval(() => {
      this.#ask("ping", {}, performance.now() + SILENT_MS).catch((error) => {
        if (socket === this.#socket && error.code === "deadline_exceeded") this.#drop();
      });
    }, PING_MS);
  }

  /** Give this socket up and open another one. */
  #drop() {
    const socket = this.#socket;
    this.#lose(1006, "the gateway does not answer");
    socket?.close();
  }

  /** @param {unknown} data */
  #message(data) {
    const frame = decodeFrame(data);
    if (!frame) this.counters.garbage += 1;
    else if (frame.type === "events") for (const one of frame.events ?? []) this.#handlers.onEvent(one);
    else if (frame.type === "reply" || frame.type === "error") {
      const asked = this.#pending.get(/** @type {number} */ (frame.id));
      if (!asked) this.counters.unmatched += 1;
      else if (frame.type === "reply") asked.settle(null, frame);
      else asked.settle(refusal(frame.problem));
    }
  }

  /** @param {number} code @param {string} reason */
  #lose(code, reason) {
    const wasReady = this.ready;
    this.#socket = null;
    clearInterval(this.#pinging);
    if (this.state === "closed") return;
    this.#failPending(lost(reason || "the connection was lost"));
    const refused = this.#refused(code, reason);
    this.#failure = refused;
    this.#setState(refused ? "failed" : "connecting");
    if (wasReady) this.#handlers.onDown(reason || "the connection was lost");
    this.#retry = setTimeout(() => this.#open(), this.#delay);
    this.#delay = Math.min(this.#delay * 2, RETRY_MAX_MS);
  }

  /** Why the gateway does not want us; null while it may. @param {number} code @param {string} reason */
  #refused(code, reason) {
    const name = CODES[code];
    if (!name) return null;
    if (name === "conflict") {
      this.#conflictSince ??= performance.now();
      if (performance.now() - this.#conflictSince < CONFLICT_GRACE_MS) return null;
    }
    return new LogosError(name, reason);
  }

  /** Resolves when requests can go out. @param {number} deadline @returns {Promise<void>} */
  async whenReady(deadline) {
    while (!this.ready) {
      if (this.state === "closed") throw closed();
      if (this.#failure) throw this.#failure;
      const left = deadline - performance.now();
      if (left <= 0) throw new LogosError("not_ready", `no answer from the gateway in time (${this.state})`);
      await new Promise((resolve) => {
        const done = () => (clearTimeout(timer), this.#changed.delete(done), resolve(null));
        const timer = setTimeout(done, left);
        this.#changed.add(done);
      });
    }
  }

  /** @param {string} op @param {Record<string, unknown>} [fields] @param {number} [timeout] ms @returns {Promise<any>} */
  async request(op, fields = {}, timeout = 10_000) {
    const deadline = performance.now() + timeout;
    await this.whenReady(deadline);
    return this.#ask(op, fields, deadline);
  }

  /** A request whose answer nothing waits for. False: it cannot be sent now. @param {string} op @param {Record<string, unknown>} fields */
  tell(op, fields) {
    if (!this.ready) return false;
    this.#socket?.send(JSON.stringify({ op, ...fields }));
    return true;
  }

  /** @param {string} op @param {Record<string, unknown>} fields @param {number} deadline @returns {Promise<any>} */
  #ask(op, fields, deadline) {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      /** @param {Error | null} error @param {any} [answer] */
      const settle = (error, answer) => {
        clearTimeout(timer);
        this.#pending.delete(id);
        return error ? reject(error) : resolve(answer);
      };
      const timer = setTimeout(() => settle(late(op)), Math.max(0, deadline - performance.now()));
      this.#pending.set(id, { settle });
      this.counters.requests += 1;
      this.#socket?.send(JSON.stringify({ op, id, ...fields }));
    });
  }

  close() {
    if (this.state === "closed") return;
    this.#setState("closed");
    clearTimeout(this.#retry);
    clearInterval(this.#pinging);
    this.#failPending(closed());
    this.#socket?.close(1000);
  }

  /** @param {State} state */
  #setState(state) {
    this.state = state;
    for (const done of [...this.#changed]) done();
  }

  /** @param {LogosError} error */
  #failPending(error) {
    for (const { settle } of [...this.#pending.values()]) settle(error);
  }
}

/** @param {any} problem */
const refusal = (problem) =>
  new LogosError(String(problem?.code ?? "internal"), String(problem?.detail ?? "refused"), {
    retriable: problem?.retriable, retry_after_ms: problem?.retryAfterMs,
  });
