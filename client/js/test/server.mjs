// A small Messaging API over a real ROUTER, for tests: streams with credit and acks, as the contract has them, in memory.
import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Decoder, Encoder } from "@msgpack/msgpack";
import { Router } from "zeromq";

const encoder = new Encoder({ useBigInt64: true });
const decoder = new Decoder({ useBigInt64: true });
const MAGIC = Buffer.from("LD1");
const plain = (value) => {
  if (typeof value === "bigint") return Number(value);
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Uint8Array) return Buffer.from(value);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
};
export const NETWORK = { cluster: 42, shard_count: 1, max_message_size: 153_600, preset: "", rln_required: false };

export class Refusal extends Error {
  constructor(code, message, retriable = false) {
    super(message);
    Object.assign(this, { code, retriable });
  }
}

export class MiniMapi {
  apps = new Map(); // name → app; named ones survive `restart`
  requests = []; // {method, body}
  features = ["send_timestamp"];
  inFlight = 0;
  mostInFlight = 0;
  #byIdentity = new Map();
  #socket; #sending = Promise.resolve();
  handlers = {
    ping: () => ({}),
    subscribe: (app, { topics }) => {
      const errors = Object.fromEntries(topics.filter((t) => !t.startsWith("/")).map((t) => [t, "not a topic"]));
      topics.filter((topic) => !(topic in errors)).forEach((topic) => app.topics.add(topic));
      return { errors };
    },
    unsubscribe: () => ({ errors: {} }),
    subscriptions: (app) => ({ topics: [...app.topics] }),
    send: (app, { request_id }) => ({ request_id, repeated: false }),
    "channel.send": (app, { request_id }) => ({ request_id, repeated: false }),
    ack: (app, { seq }) => (app.acks.push(seq), { acked: (app.acked = Math.max(app.acked, seq)) }),
    credit: (app, { total }) => ((app.credit = Math.max(app.credit, total)), this.#push(app), {}),
    status: () => ({ connection: "Connected", reason: "", resyncing: false, topics: {} }),
    goodbye: (app) => (this.#byIdentity.delete(app.identity), (app.identity = null), {}),
  };

  static async start() {
    const server = new MiniMapi();
    server.directory = await mkdtemp(join(tmpdir(), "js"));
    server.endpoint = `ipc://${server.directory}/apps`;
    await server.listen();
    return server;
  }

  async listen() {
    this.instance = randomBytes(16);
    this.#byIdentity.clear();
    for (const [name, app] of this.apps) {
      app.identity = null;
      if (!app.durable) this.apps.delete(name);
    }
    this.#socket = new Router({ linger: 0, mandatory: false, sendTimeout: 1000 });
    await this.#socket.bind(this.endpoint);
    this.#read(this.#socket);
  }

  stop() {
    this.#socket.close();
  }

  async close() {
    this.stop();
    await rm(this.directory, { recursive: true });
  }

  get app() {
    return [...this.apps.values()][0];
  }

  forgetConnections() {
    this.#byIdentity.clear();
    this.apps.forEach((app) => (app.identity = null));
  }

  /** Put an event on an app's stream and send what its credit allows. */
  emit(app, kind, fields = [], payload = Buffer.alloc(0), seq = app.events.length + 1) {
    app.events.push([encoder.encode([1, app.stream, seq, kind, 1, ...fields]), payload]);
    this.#push(app);
  }

  message(app, payload) {
    this.emit(app, 1, ["/a/1/b/c", Buffer.alloc(32), 5, Buffer.alloc(0), false, 0], Buffer.from(payload));
  }

  raw(app, frames) {
    this.#send(app.identity, frames);
  }

  #push(app) {
    while (app.identity && app.sent < app.events.length && app.cost < app.credit) {
      const [header, payload] = app.events[app.sent++];
      app.cost += header.length + payload.length;
      this.#send(app.identity, [MAGIC, header, payload]);
    }
  }

  #send(identity, frames) {
    const socket = this.#socket;
    const send = () => socket.send([Buffer.from(identity, "hex"), ...frames]).catch(() => {});
    this.#sending = this.#sending.then(send, send);
  }

  async #read(socket) {
    for await (const [identity, , head, packed, ...blobs] of socket) {
      const [id, method, , flags] = plain(decoder.decode(head));
      const body = plain(decoder.decode(packed));
      this.requests.push({ method, body, blobs });
      this.mostInFlight = Math.max(this.mostInFlight, ++this.inFlight);
      this.#answer(identity.toString("hex"), id, method, body, blobs, flags & 1).finally(() => (this.inFlight -= 1));
    }
  }

  async #answer(identity, id, method, body, sent, noReply) {
    let status = 0;
    let answer;
    let blobs = [];
    try {
      if (method === "hello") answer = this.hello(identity, body);
      else {
        const app = this.#byIdentity.get(identity);
        if (!app) throw new Refusal("not_ready", "hello first", true);
        answer = await this.handlers[method](app, body, sent);
        if (Array.isArray(answer)) [answer, blobs] = answer;
      }
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      [status, answer] = [1, { code: error.code, message: error.message, retriable: error.retriable }];
    }
    if (answer === undefined || (noReply && !status)) return;
    this.#send(identity, [MAGIC, encoder.encode([id, status, this.instance]), encoder.encode(answer), ...blobs]);
    if (method === "hello" && !status && this.#byIdentity.has(identity)) this.#push(this.#byIdentity.get(identity));
  }

  hello(identity, { name, credit }) {
    const key = name ?? `ephemeral-${identity}`;
    const fresh = { stream: randomBytes(16), events: [], topics: new Set(), acked: 0, acks: [], durable: Boolean(name) };
    const app = this.apps.get(key) ?? fresh;
    this.apps.set(key, Object.assign(app, { identity, credit, cost: 0, sent: app.acked }));
    this.#byIdentity.set(identity, app);
    return {
      protocol: 1, instance: this.instance, server: "logos-mapi/test", features: this.features, heartbeat_ms: 1000, network: NETWORK,
      limits: { in_flight: 16, body_bytes: 1 << 20, blob_bytes: 200_000, topics: 100, max_payload: 140_000, send_window_ms: 1 },
      app: key, durable: app.durable, stream: { id: app.stream, acked: app.acked, last: app.events.length },
      subscriptions: [...app.topics], status: this.handlers.status(),
    };
  }
}

/** Resolves when `condition()` holds; the test's own time limit ends the wait. */
export const until = async (condition) => {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2));
};
