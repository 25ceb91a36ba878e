// One DEALER to a server of the contract: hello, concurrent requests, reconnect (ipc_schema/SPEC.md, §2).
//
// States: connecting (no server, or a lost one) → greeting (hello is on its way) → ready → connecting …; failed is a
// server that is there and refuses our hello: requests reject with its reason, hello is tried again slowly.
import { randomBytes } from "node:crypto";
import { statSync } from "node:fs";
import { ReconnectingDealer, lost, sleep } from "./dealer.mjs";
import { LogosError, closed, late } from "./errors.mjs";
import { decodeReply, encodeRequest, isEvent } from "./frames.mjs";
import { Turnstile } from "./turnstile.mjs";

/** @typedef {{body: Record<string, any>, blobs: Buffer[], instance: Buffer}} Reply */
/** @typedef {"connecting" | "greeting" | "ready" | "failed" | "closed"} State */

const NO_REPLY = 1;
const HELLO_FIRST = "hello first";
const HELLO_TIMEOUT_MS = 3_000;
const HELLO_RETRY_MS = 100;
const HELLO_RETRY_MAX_MS = 2_000;
const REFUSED_RETRY_MS = 5_000;
// A server may still take the connection of our own dead predecessor for a live one, until its next heartbeat.
const CONFLICT_GRACE_MS = 3_000;
const SILENCE_MS = 4_000; // without a word from the server: ask whether it still knows us
const IDLE_MS = 10_000; // without a word from us: the server gives us up after 30 s
const TICK_MS = 1_000;
const DEFAULT_IN_FLIGHT = 64; // until the hello says how many
const MAX_BUDGET_MS = 3_600_000;
const MAX_TIMER_MS = 2 ** 31 - 1;

const now = () => performance.now();

export class Connection {
  /** @type {State} */ state = "connecting";
  counters = { hellos: 0, restarts: 0, requests: 0, garbage: 0, unmatched: 0 };
  #dealer; #endpoint; #handlers;
  /** @type {NodeJS.Timeout | undefined} */ #tick;
  /** @type {Map<string, {resolve: (reply: Reply) => void, reject: (error: Error) => void, timer: NodeJS.Timeout, hello: boolean}>} */
  #pending = new Map();
  /** @type {Set<() => void>} */
  #changed = new Set();
  #turnstile = new Turnstile(DEFAULT_IN_FLIGHT);
  #idPrefix = randomBytes(8);
  #ids = 0;
  #generation = 0; // of connections: a hello is about one
  /** @type {Buffer | null} */ #instance = null;
  /** @type {LogosError | null} */ #failure = null;
  /** @type {number | null} */ #conflictSince = null;
  #heard = now();
  #spoke = now();
  #probing = false;
  #greeted = false;

  /**
   * `hello()`: the body of the hello, made each time; without it none is needed (a control socket). `onHello(body)`: it was
   * accepted; runs before any event behind it is seen; a `LogosError` that it throws counts as a refusal. `onDown(reason)`: a
   * connection that was ready is lost, or refused. `onEvent(frames)`: an event of the app's stream. None of them may throw
   * anything else. `keepalive`: a request without effect, made after silence, so that a server that forgot us says so.
   * @param {string} endpoint
   * @param {{hello?: () => Record<string, unknown>, onHello?: (body: Record<string, any>) => void,
   *   onDown?: (reason: string) => void, onEvent?: (frames: Buffer[]) => void, keepalive?: string}} handlers
   */
  constructor(endpoint, handlers) {
    this.#endpoint = endpoint;
    this.#handlers = handlers;
    this.#dealer = new ReconnectingDealer(endpoint, {
      up: () => this.#greet(),
      down: () => this.#disconnected(),
      message: (frames) => this.#receive(frames),
    });
    if (handlers.keepalive) this.#tick = setInterval(() => this.#checkAlive(), TICK_MS);
  }

  get ready() {
    return this.state === "ready";
  }

  /**
   * Resolves when requests can go out. Rejects when the server refuses us, and with `not_ready` at `deadline`.
   * @param {number} deadline ms, monotonic (`performance.now()`)
   * @returns {Promise<void>}
   */
  async whenReady(deadline) {
    while (!this.ready) {
      if (this.state === "closed") throw closed();
      if (this.#failure) throw this.#failure;
      if (now() >= deadline) throw new LogosError("not_ready", `no answer from ${this.#endpoint} in time${this.#hint()}`);
      await new Promise((resolve) => {
        const done = () => (clearTimeout(timer), this.#changed.delete(done), resolve(null));
        const timer = setTimeout(done, Math.min(MAX_TIMER_MS, deadline - now()));
        this.#changed.add(done);
      });
    }
  }

  #hint() {
    if (!this.#dealer.strange) {
      const gone = this.#endpoint.startsWith("ipc://") && isAbsent(this.#endpoint.slice("ipc://".length));
      return ` (${this.state}${gone ? "; there is no such socket" : ""})`;
    }
    return ": what listens there takes no requests (an events socket, or no server of this contract), is full, or turns this user away (allowed-uid)";
  }

  /**
   * The reply to a request. Waits for the server and for a place among the requests in flight, all within `timeout` ms.
   * @param {string} method
   * @param {Record<string, unknown>} [body]
   * @param {Uint8Array[]} [blobs]
   * @param {number} [timeout]
   * @returns {Promise<Reply>}
   */
  async request(method, body = {}, blobs = [], timeout = 10_000) {
    const deadline = now() + timeout;
    if (!this.#turnstile.tryEnter()) await this.#turnstile.enter(deadline, method);
    try {
      for (;;) {
        if (!this.ready) await this.whenReady(deadline);
        try {
          return await this.#ask(method, body, blobs, deadline);
        } catch (error) {
          // The server does not know this connection, so it did nothing: the request may go out again.
          if (!wantsHello(error) || now() >= deadline) throw error;
        }
      }
    } finally {
      this.#turnstile.leave();
    }
  }

  /**
   * A request whose reply is not awaited; lost with the connection. False: it cannot be sent now.
   * @param {string} method
   * @param {Record<string, unknown>} [body]
   */
  tell(method, body) {
    if (!this.ready) return false;
    this.#spoke = now();
    this.#dealer.send(encodeRequest(this.#newId(), method, body, [], { flags: NO_REPLY }), () => {});
    return true;
  }

  close() {
    if (this.state === "closed") return;
    this.#setState("closed");
    clearInterval(this.#tick);
    this.#generation += 1;
    this.#failPending(closed());
    this.#dealer.close();
  }

  /**
   * @param {string} method
   * @param {Record<string, unknown>} body
   * @param {Uint8Array[]} blobs
   * @param {number} deadline
   * @returns {Promise<Reply>}
   */
  #ask(method, body, blobs, deadline) {
    return new Promise((resolve, reject) => {
      const budgetMs = Math.min(MAX_BUDGET_MS, Math.floor(deadline - now()));
      if (budgetMs < 1) return reject(late(method));
      const id = this.#newId();
      const key = id.toString("latin1");
      const timer = setTimeout(() => this.#settle(key, late(method)), Math.min(MAX_TIMER_MS, budgetMs));
      this.#pending.set(key, { resolve, reject, timer, hello: method === "hello" });
      this.#spoke = now();
      this.counters.requests += 1;
      this.#dealer.send(encodeRequest(id, method, body, blobs, { budgetMs }), (error) => this.#settle(key, error));
    });
  }

  /** End a request. @param {string} key @param {Error | null} error @param {Reply} [reply] */
  #settle(key, error, reply) {
    const asked = this.#pending.get(key);
    if (!asked) return;
    clearTimeout(asked.timer);
    this.#pending.delete(key);
    if (error) asked.reject(error);
    else asked.resolve(/** @type {Reply} */ (reply));
  }

  #newId() {
    const id = Buffer.allocUnsafe(16);
    id.set(this.#idPrefix);
    id.writeUInt16BE(0, 8);
    id.writeUIntBE((this.#ids += 1), 10, 6);
    return id;
  }

  /** @param {Buffer[]} frames */
  #receive(frames) {
    this.#heard = now();
    if (isEvent(frames)) this.#handlers.onEvent?.(frames);
    else this.#reply(frames);
  }

  /** @param {Buffer[]} frames */
  #reply(frames) {
    let reply;
    try {
      reply = decodeReply(frames);
    } catch {
      this.counters.garbage += 1;
      return;
    }
    const key = reply.id.toString("latin1");
    const asked = this.#pending.get(key);
    if (!asked) this.counters.unmatched += 1;
    else if (asked.hello && !reply.error) this.#accept(reply, key);
    else this.#settle(key, reply.error, reply);
    if (this.#meet(reply.instance) && this.ready) {
      this.#lose("the server was restarted");
      this.#greet();
    } else if (this.ready && wantsHello(reply.error)) {
      this.#lose("the server does not know this connection any more");
      this.#greet();
    }
  }

  /**
   * Our hello was accepted. At once, not in the task that waits: events may stand right behind it.
   * @param {Reply} reply
   * @param {string} key
   */
  #accept(reply, key) {
    try {
      this.#handlers.onHello?.(reply.body);
    } catch (error) {
      return this.#settle(key, /** @type {Error} */ (error));
    }
    this.#settle(key, null, reply);
    this.#meet(reply.instance);
    this.counters.hellos += 1;
    this.#failure = null;
    this.#conflictSince = null;
    this.#greeted = true;
    const limit = reply.body.limits?.in_flight;
    this.#turnstile.resize(Number.isInteger(limit) && limit > 0 ? limit : DEFAULT_IN_FLIGHT);
    this.#setState("ready");
  }

  /** Note who answers; true: it is another instance than before. @param {Buffer} instance */
  #meet(instance) {
    const known = this.#instance;
    this.#instance = instance;
    if (!known || known.equals(instance)) return false;
    this.counters.restarts += 1;
    return true;
  }

  #disconnected() {
    if (this.state === "closed") return;
    this.#failure = null;
    this.#lose("the connection was lost");
  }

  /** What was asked on this connection has no answer any more; nothing of it may reach a successor. @param {string} reason */
  #lose(reason) {
    const wasReady = this.ready;
    this.#generation += 1;
    this.#dealer.forget();
    this.#setState("connecting");
    this.#failPending(lost(reason));
    if (wasReady) this.#handlers.onDown?.(reason);
  }

  async #greet() {
    if (this.state === "closed") return;
    const generation = ++this.#generation;
    this.#dealer.forget();
    const { hello } = this.#handlers;
    if (!hello) return this.#setState("ready");
    this.#setState("greeting");
    let delay = HELLO_RETRY_MS;
    for (;;) {
      try {
        await this.#ask("hello", hello(), [], now() + HELLO_TIMEOUT_MS);
        return;
      } catch (error) {
        if (generation !== this.#generation) return; // lost: the next connection does it
        const reason = error instanceof LogosError ? error : new LogosError("bad_request", `hello: ${error}`);
        if (this.#worthWaiting(reason)) delay = Math.min(delay * 2, HELLO_RETRY_MAX_MS);
        else {
          this.#refuse(reason);
          delay = REFUSED_RETRY_MS;
        }
        await sleep(Math.max(delay, reason.retry_after_ms ?? 0));
      }
      if (generation !== this.#generation) return;
    }
  }

  /** @param {LogosError} error */
  #worthWaiting(error) {
    if (error.code !== "conflict") return error.retriable;
    this.#conflictSince ??= now();
    return now() - this.#conflictSince < CONFLICT_GRACE_MS;
  }

  /** @param {LogosError} error */
  #refuse(error) {
    const first = !this.#failure;
    this.#failure = error;
    this.#setState("failed");
    if (first && this.#greeted) this.#handlers.onDown?.(error.message);
  }

  #checkAlive() {
    if (!this.ready || this.#probing) return;
    if (now() - this.#heard < SILENCE_MS && now() - this.#spoke < IDLE_MS) return;
    this.#probing = true;
    // No answer: a hung server. Its return, or the loss of the connection, is noticed elsewhere.
    const probed = this.#ask(/** @type {string} */ (this.#handlers.keepalive), {}, [], now() + SILENCE_MS).catch(() => {});
    probed.finally(() => (this.#probing = false));
  }

  /** @param {State} state */
  #setState(state) {
    this.state = state;
    for (const done of [...this.#changed]) done();
  }

  /** @param {LogosError} error */
  #failPending(error) {
    for (const key of [...this.#pending.keys()]) this.#settle(key, error);
  }
}

/** @param {unknown} error */
const wantsHello = (error) => error instanceof LogosError && error.code === "not_ready" && error.message.endsWith(HELLO_FIRST);

/** Whether there is nothing at the path; false if we may not look (a directory of another user). @param {string} path */
function isAbsent(path) {
  try {
    return statSync(path, { throwIfNoEntry: false }) === undefined;
  } catch {
    return false;
  }
}
