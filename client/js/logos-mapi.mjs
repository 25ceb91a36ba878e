// A client of a Messaging API: subscribe, send, and the app's ordered stream of events with byte credit, acks and
// resumption (ipc_schema/SPEC.md, §4). It reconnects by itself.
import { randomBytes } from "node:crypto";
import { Connection } from "./connection.mjs";
import { LogosError, decodeEvent } from "./frames.mjs";

export { LogosError };

const ACK_DELAY_MS = 100; // one ack for all that was handled in this time: for a named app it is a write to the disk

/**
 * An app. `for await (const event of client)` gives the events of its stream in order and once each, as in
 * `decodeEvent`; asking for the next one says that the one before is handled, and acknowledges it. When the stream
 * could not be resumed (an ephemeral app's ends with its connection) there is an event
 * `{event: "stream_lost", stream_id, seq}`: what came behind seq is lost.
 */
export class MapiClient {
  #connection;
  #window;
  #topics = new Set();
  #queue = []; // {event, cost}, received and not yet taken
  #wake = () => {};
  #ended = false;
  #handled = null; // the last event the app was done with, until it is acknowledged
  #ackTimer = null;
  #stream = null;
  #seq = 0; // the last one queued
  #held = 0; // bytes queued, or taken and not handled
  #received = 0; // bytes since the hello
  #granted = 0; // credit since the hello

  /**
   * Connect to an endpoint (`ipc://…/mapi/apps`). With a name (`[a-z0-9._-]{1,64}`) the app is durable: its
   * subscriptions, stream and position outlive this program. `takeover` ends another live connection of the name.
   * `credit`: bytes of events that may wait here. Rejects with the server's `LogosError`, or after `timeout` ms.
   */
  static async connect(endpoint, { name, takeover = false, credit = 1 << 20, timeout = 10_000 } = {}) {
    const client = new MapiClient(endpoint, name, takeover, credit);
    try {
      await client.#connection.whenReady(Date.now() + timeout);
      return client;
    } catch (error) {
      await client.close();
      throw error;
    }
  }

  /** Not for apps: see `connect`. */
  constructor(endpoint, name, takeover, credit) {
    this.#window = credit;
    const hello = () => {
      this.#granted = Math.max(0, this.#window - this.#held);
      // Taking over is for the first time only: two that insist would take turns for ever.
      return { kind: "app", protocol: [1, 1], name, takeover: takeover && !this.#stream, credit: this.#granted };
    };
    const onHello = (body) => this.#greeted(body);
    const onEvent = (frames) => this.#receive(decodeEvent(frames), frames[1].length + (frames[2]?.length ?? 0));
    this.#connection = new Connection(endpoint, { hello, onHello, onEvent });
  }

  /** Subscribe to content topics. Resolves to `{topic: why not}`: empty when all went well. */
  async subscribe(...topics) {
    const { errors } = await this.call("subscribe", { topics });
    topics.filter((topic) => !(topic in errors)).forEach((topic) => this.#topics.add(topic));
    return errors;
  }

  async unsubscribe(...topics) {
    topics.forEach((topic) => this.#topics.delete(topic));
    return (await this.call("unsubscribe", { topics })).errors;
  }

  /**
   * Hand a message over: its request id (16 bytes) once it is accepted. Its fate follows as events. The id is the
   * idempotency key, so this is repeated across reconnects, until `timeout` ms are over.
   */
  async send(topic, payload, { ephemeral = false, meta, requestId = randomBytes(16), timeout = 10_000 } = {}) {
    const deadline = Date.now() + timeout;
    const body = { request_id: requestId, content_topic: topic, meta, ephemeral };
    for (;;) {
      try {
        await this.#connection.request("send", body, [Buffer.from(payload)], deadline - Date.now());
        return requestId;
      } catch (error) {
        if (error.code !== "peer_restarted" || Date.now() >= deadline) throw error;
      }
    }
  }

  /** Acknowledge everything up to an event; it is on disk when this resolves. */
  ack({ stream_id, seq }) {
    return this.call("ack", { stream: stream_id, seq });
  }

  /** `{connection, reason, resyncing, topics}`. */
  status() {
    return this.call("status");
  }

  /** Any method of the contract: the body of its reply. */
  async call(method, body, timeout) {
    return (await this.#connection.request(method, body, [], timeout)).body;
  }

  async close() {
    clearTimeout(this.#ackTimer);
    if (this.#ended) return;
    if (this.#handled && this.#connection.ready) await this.ack(this.#handled).catch(() => {}); // it will come again
    if (this.#connection.ready) await this.call("goodbye", {}, 1000).catch(() => {}); // leaving anyway
    this.#ended = true;
    this.#connection.close();
    this.#wake();
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (!this.#queue.length) {
        if (this.#ended) return;
        await new Promise((resolve) => (this.#wake = resolve));
      }
      const { event, cost } = this.#queue.shift();
      yield event;
      this.#held -= cost;
      if (cost) {
        this.#handled = event;
        this.#ackTimer ??= setTimeout(() => this.#acknowledge(), ACK_DELAY_MS);
      }
      this.#giveCredit();
    }
  }

  #acknowledge() {
    this.#ackTimer = null;
    const { stream_id, seq } = this.#handled;
    if (this.#connection.ready && this.#stream.equals(stream_id)) {
      this.#connection.tell("ack", { stream: stream_id, seq });
      this.#handled = null;
    }
  }

  #greeted({ stream: { id, acked }, subscriptions }) {
    this.#received = 0;
    if (!this.#stream?.equals(id)) {
      if (this.#stream) this.#put({ event: "stream_lost", stream_id: this.#stream, seq: this.#seq }, 0);
      [this.#stream, this.#seq] = [id, acked];
    }
    const missing = [...this.#topics].filter((topic) => !subscriptions.includes(topic));
    subscriptions.forEach((topic) => this.#topics.add(topic));
    // Should this fail, the connection is gone again and the next hello does it.
    if (missing.length) setImmediate(() => this.subscribe(...missing).catch(() => {}));
  }

  #receive(event, cost) {
    if (event.event === "heartbeat") return;
    if (event.event === "taken_over") {
      this.#put(event, 0);
      this.#ended = true;
      return this.#connection.close();
    }
    this.#received += cost;
    if (!this.#stream?.equals(event.stream_id) || event.seq <= this.#seq) return this.#giveCredit(); // a repeat
    this.#seq = event.seq;
    this.#put(event, cost);
  }

  #put(event, cost) {
    this.#held += cost;
    this.#queue.push({ event, cost });
    this.#wake();
  }

  #giveCredit() {
    const total = this.#received + Math.max(0, this.#window - this.#held);
    if (!this.#connection.ready || total - this.#granted < this.#window / 4) return;
    this.#granted = total;
    this.#connection.tell("credit", { total });
  }
}
