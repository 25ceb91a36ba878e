// Live events that are held while earlier ones are replayed.
import assert from "node:assert/strict";
import { test } from "node:test";
import { HeldEvents } from "../lib/held.mjs";

const [INSTANCE, EPOCH] = [Buffer.alloc(16, 1), Buffer.alloc(8, 1)];
const at = (seq, epoch = EPOCH) => ({ instance: INSTANCE, epoch, seq });

const held = (seqs, maxBytes = 1_000) => {
  const events = new HeldEvents(maxBytes, () => 10);
  for (const seq of seqs) events.add(at(seq));
  return events;
};
const taken = (events, last) => events.take(INSTANCE, EPOCH, last).map(({ seq }) => seq);

test("a replay that reaches them gives way to them", () => {
  const events = held([5, 6, 7]);
  assert.deepEqual(taken(events, 3), []);
  assert.deepEqual(taken(events, 4), [5, 6, 7]);
  assert.deepEqual(taken(events, 4), []);
  assert.equal(events.bytes, 0);
  assert.deepEqual(taken(held([5, 6, 7]), 6), [7], "the replay went on into them");
  assert.deepEqual(taken(held([5, 6, 7]), 7), []);
});

test("a gap begins a new run", () => {
  const events = held([5, 6]);
  assert.equal(events.add(at(8)), 2);
  assert.deepEqual(taken(events, 4), []);
  assert.deepEqual(taken(events, 7), [8]);
});

test("memory is bounded, and another epoch is not mixed in", () => {
  const events = held(Array.from({ length: 99 }, (_, index) => index + 1), 100);
  assert.ok(events.bytes <= 110);
  assert.deepEqual(taken(events, 98), [99]);
  assert.equal(events.add(at(1, Buffer.alloc(8, 2))), 0);
  assert.deepEqual(taken(events, 0), []);
});
