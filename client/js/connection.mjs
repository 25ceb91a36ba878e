// One DEALER to a Messaging API: hello, requests, reconnect (ipc_schema/SPEC.md, §2).
import { randomBytes } from "node:crypto";
import { Dealer } from "zeromq";
import { LogosError, decodeReply, encodeRequest, isEvent } from "./frames.mjs";

const NO_REPLY = 1;
const HELLO_RETRY_MS = 200;
const PING_MS = 10_000; // we are given up after 30 s of silence
// Without `immediate` a request would wait for a server that is gone, and reach its successor.
const OPTIONS = { immediate: true, linger: 0, sendTimeout: 0, reconnectInterval: 50, reconnectMaxInterval: 2000 };

const retriable = (code, message) => new LogosError(code, message, { retriable: true });
const lost = () => retriable("peer_restarted", "the connection was lost");

/**
 * `hello()`: the body of the hello, each time anew. `onHello(body)`: it was accepted; runs before any event behind it
 * is seen. `onEvent(frames)`: an event of the app's stream.
 */
export class Connection {
  ready = false;
  #socket; #hello; #onHello; #onEvent; #ping;
  #pending = new Map(); // correlation id → {settle, hello}
  #whenReady = [];
  #sending = Promise.resolve();
  #generation = 0; // of connections: nothing meant for one may reach the next
  #greeted = false;
  #failure = null;
  #closed = false;

  constructor(endpoint, { hello, onHello, onEvent }) {
    [this.#hello, this.#onHello, this.#onEvent] = [hello, onHello, onEvent];
    this.#socket = new Dealer(OPTIONS);
    this.#socket.events.on("handshake", () => this.#greet());
    this.#socket.events.on("disconnect", () => this.#down(lost()));
    this.#socket.connect(endpoint);
    this.#ping = setInterval(() => this.tell("ping"), PING_MS);
    this.#read();
  }

  /** Resolves when requests go out; rejects when the server refused us, or at `deadline` (ms since the epoch). */
  whenReady(deadline) {
    if (this.#failure) return Promise.reject(this.#failure);
    if (this.ready) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const late = () => reject(retriable("not_ready", "no Messaging API there in time"));
      const timer = setTimeout(late, Math.max(0, deadline - Date.now()));
      this.#whenReady.push((failure) => (clearTimeout(timer), failure ? reject(failure) : resolve()));
    });
  }

  /** The reply `{body, blobs}` to a request. Rejects with a `LogosError`. */
  async request(method, body = {}, blobs = [], timeout = 10_000) {
    const deadline = Date.now() + timeout;
    await this.whenReady(deadline);
    return this.#ask(method, body, blobs, deadline);
  }

  /** A request whose success nobody waits for; lost with the connection. */
  tell(method, body) {
    if (!this.ready) return;
    const frames = encodeRequest(randomBytes(16), method, body, [], { flags: NO_REPLY });
    this.#write(frames).catch(() => {}); // lost with the connection, as said
  }

  close() {
    this.#closed = true;
    clearInterval(this.#ping);
    const closed = new LogosError("not_ready", "the client is closed");
    this.#down(closed);
    this.#settle(closed);
    this.#socket.close();
  }

  #ask(method, body, blobs, deadline) {
    return new Promise((resolve, reject) => {
      const id = randomBytes(16);
      const key = id.toString("hex");
      const settle = (error, reply) => {
        clearTimeout(timer);
        this.#pending.delete(key);
        return error ? reject(error) : resolve(reply);
      };
      const budgetMs = Math.max(1, deadline - Date.now());
      const late = retriable("deadline_exceeded", `${method}: no answer in time`);
      const timer = setTimeout(() => settle(late), budgetMs);
      this.#pending.set(key, { settle, hello: method === "hello" });
      this.#write(encodeRequest(id, method, body, blobs, { budgetMs })).catch(() => settle(lost()));
    });
  }

  // The socket takes one message at a time.
  #write(frames) {
    const generation = this.#generation;
    const send = () => (generation === this.#generation ? this.#socket.send(frames) : Promise.reject(lost()));
    return (this.#sending = this.#sending.then(send, send));
  }

  async #read() {
    for await (const frames of this.#socket) {
      try {
        if (isEvent(frames)) this.#onEvent(frames);
        else this.#reply(decodeReply(frames));
      } catch (error) {
        if (!(error instanceof LogosError)) throw error; // garbage is dropped: nobody waits for it
      }
    }
  }

  #reply(reply) {
    const asked = this.#pending.get(reply.id.toString("hex"));
    if (this.ready && reply.error?.code === "not_ready" && reply.error.message === "hello first") {
      this.#down(lost()); // it forgot us: as good as another connection
      this.#greet();
    } else if (asked?.hello && !reply.error) {
      this.#onHello(reply.body);
      this.#greeted = true;
      this.#settle(null);
      asked.settle(null, reply);
    } else asked?.settle(reply.error, reply);
  }

  async #greet() {
    const generation = ++this.#generation;
    while (generation === this.#generation && !this.#closed) {
      try {
        return await this.#ask("hello", this.#hello(), [], Date.now() + 3000);
      } catch (error) {
        if (!error.retriable && !this.#greeted) return this.#settle(error);
        await new Promise((resolve) => setTimeout(resolve, error.retry_after_ms ?? HELLO_RETRY_MS));
      }
    }
  }

  #settle(failure) {
    [this.#failure, this.ready] = [failure, !failure];
    this.#whenReady.splice(0).forEach((done) => done(failure));
  }

  #down(error) {
    this.ready = false;
    this.#generation += 1;
    [...this.#pending.values()].forEach(({ settle }) => settle(error));
  }
}
