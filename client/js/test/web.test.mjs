// The browser client's frames, which need no browser: every kind of event of the contract can be read.
import assert from "node:assert/strict";
import { test } from "node:test";
import { EVENTS } from "../lib/contract.mjs";
import { decodeFrame, fromBase64, readEvent, toBase64 } from "../lib/web/frames.mjs";

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
