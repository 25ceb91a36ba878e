// What of the browser client needs no browser: its frames, and what it says when it connects again.
import assert from "node:assert/strict";
import { test } from "node:test";
import { EVENTS } from "../lib/contract.mjs";
import { decodeFrame, fromBase64, readEvent, toBase64 } from "../lib/web/frames.mjs";
import { MessagingClient } from "../lib/web/messaging.mjs";

const SAMPLES = {
  text: "text", texts: ["a", "b"], bool: true, uint: 7, uint32: 7, ns: 1735689600123456, id: "ab".repeat(16),
  hash: `0x${"cd".repeat(32)}`, meta: "bWV0YQ==", bytes: "aGVsbG8=",
};
const camel = (name) => name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
const common = { streamId: "00".repeat(16), seq: 3, timeNs: 1735689600123456 };

for (const [kind, fields] of EVENTS) {
  test(`an event ${kind} is read whole, and refused with a field that is wrong`, () => {
    const shown = { kind, ...common };
    for (const [name, check] of Object.entries(fields)) shown[camel(name)] = SAMPLES[check.replace(/[?=].*/, "")];
    const event = readEvent(shown);
    assert.equal(event?.event, kind);
    for (const [name, check] of Object.entries(fields)) {
      assert.notEqual(event[name], undefined, name);
      assert.equal(readEvent({ ...shown, [camel(name)]: {} }), null, name);
      const without = readEvent({ ...shown, [camel(name)]: undefined });
      const optional = check.endsWith("?") || check.includes("=");
      assert.equal(without === null, !optional, name);
    }
  });
}

test("nanoseconds are exact, and what stands in a text is left alone", () => {
  const frame = decodeFrame('{"type":"event","event":{"timestamp":1735689600123456789,"text":"\\"timestamp\\":1735689600123456789}"}}');
  assert.equal(frame.event.timestamp, "1735689600123456789");
  assert.equal(frame.event.text, '"timestamp":1735689600123456789}');
  const read = readEvent({ kind: "message_cancelled", ...common, timeNs: "1735689600123456789", requestId: "ab".repeat(16) });
  assert.equal(read.time_ns, 1735689600123456789n);
});

test("kinds of later versions are unknown, and what is no frame is none", () => {
  assert.deepEqual(readEvent({ kind: "new_kind", ...common }).event, "unknown");
  for (const text of ["", "[]", "1", "null", '{"type":1}', new ArrayBuffer(2)]) assert.equal(decodeFrame(text), null);
  for (const event of [null, 1, {}, { kind: "message_sent" }]) assert.equal(readEvent(event), null);
});

test("bytes of any length go there and back", () => {
  for (const length of [0, 1, 2, 3, 100_000]) {
    const bytes = Uint8Array.from({ length }, (_, index) => index % 256);
    assert.deepEqual(fromBase64(toBase64(bytes)), bytes);
  }
  assert.equal(fromBase64("***"), null);
});

/** A gateway's end of the sockets that a page opens. */
class Gateway {
  sockets = [];
  instance = "11".repeat(16);

  constructor() {
    const gateway = this;
    globalThis.WebSocket = class extends EventTarget {
      constructor(url) {
        super();
        this.url = new URL(url);
        gateway.sockets.push(this);
        queueMicrotask(() => this.dispatchEvent(new Event("open")));
      }

      send(text) {
        const { op, id } = JSON.parse(text);
        const status = { connection: "Connected", reason: "", resyncing: false, topics: {} };
        if (op === "hello") this.say({ type: "reply", id, instance: gateway.instance, status });
        else if (id !== undefined) this.say({ type: "reply", id });
      }

      say(frame) {
        this.dispatchEvent(Object.assign(new Event("message"), { data: JSON.stringify(frame) }));
      }

      close(code = 1006) {
        this.dispatchEvent(Object.assign(new Event("close"), { code, reason: "" }));
      }
    };
  }

  get last() {
    return this.sockets.at(-1);
  }

  /** An event of the app's stream, or of the gateway's own link. */
  event(fields) {
    this.last.say({ type: "events", events: [{ cost: 300, event: fields }] });
  }

  cancelled(seq) {
    this.event({ kind: "message_cancelled", streamId: "ab".repeat(16), seq, timeNs: 1, requestId: "cd".repeat(16) });
  }

  /** What the page says of itself on its next socket. */
  async again() {
    const before = this.sockets.length;
    this.last.close();
    while (this.sockets.length === before) await new Promise((resolve) => setTimeout(resolve, 5));
    return [this.last.url.searchParams.get("after"), this.last.url.searchParams.get("instance")];
  }
}

test("a page that connects again says what it has seen, and from which Messaging API", async () => {
  const gateway = new Gateway();
  const client = await MessagingClient.connect("http://127.0.0.1:1/", { name: "page" });
  assert.equal(gateway.last.url.searchParams.get("instance"), null);
  gateway.cancelled(1);
  assert.deepEqual(await gateway.again(), [`${"ab".repeat(16)}:1`, "11".repeat(16)]);
  await client.status().catch(() => {}); // the hello of this socket has come

  gateway.event({ kind: "link_lost", reason: "it has ended" });
  gateway.instance = "22".repeat(16);
  assert.equal((await gateway.again())[1], null, "from which it came is not known now");
  await client.status().catch(() => {});
  assert.equal((await gateway.again())[1], "22".repeat(16));
  await client.status().catch(() => {});

  gateway.instance = "33".repeat(16);
  gateway.event({ kind: "link_restored", resumed: true, lastSeq: 1, subscriptionErrors: {} });
  await client.status().catch(() => {});
  gateway.cancelled(2);
  assert.deepEqual(await gateway.again(), [`${"ab".repeat(16)}:2`, "33".repeat(16)]);
  await client.close();
});
