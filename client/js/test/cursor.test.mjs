// A reader's position in one of a kernel's streams, event by event.
import assert from "node:assert/strict";
import { test } from "node:test";
import { StreamCursor } from "../lib/cursor.mjs";
import { HeldEvents } from "../lib/held.mjs";

const [ONE, TWO] = [Buffer.alloc(16, 1), Buffer.alloc(16, 2)];
const [OLD, NEW] = [Buffer.alloc(8, 1), Buffer.alloc(8, 2)];
const at = (seq, instance = ONE, epoch = OLD) => ({ instance, epoch, seq });

const started = (last) => {
  const cursor = new StreamCursor("m/1/0", new HeldEvents(0, () => 0));
  cursor.start(ONE, OLD, last);
  return cursor;
};

test("events in order are kept, repeats are skipped", () => {
  const cursor = started(0);
  assert.deepEqual([1, 2, 2, 1, 3].map((seq) => cursor.event(at(seq))), ["keep", "keep", "skip", "skip", "keep"]);
  assert.equal(cursor.heartbeat(at(3)), "skip");
  assert.deepEqual(cursor.takeLosses(), []);
});

test("a gap is caught up by a replay, during which live events are skipped", () => {
  const cursor = started(1);
  assert.equal(cursor.event(at(4)), "catch up");
  cursor.behind = true;
  assert.equal(cursor.event(at(5)), "skip");
  assert.deepEqual([2, 3, 4, 5].map((seq) => cursor.replayed(at(seq))), ["keep", "keep", "keep", "keep"]);
  cursor.behind = false;
  assert.equal(cursor.event(at(6)), "keep");
});

test("a heartbeat tells of events that did not come", () => {
  const cursor = started(1);
  assert.equal(cursor.heard, false);
  assert.equal(cursor.heartbeat(at(3)), "catch up");
  assert.deepEqual([cursor.heard, cursor.last, cursor.highest], [true, 1, 3]);
});

test("another epoch or instance is a loss whose length is unknown, and begins at 1", () => {
  for (const place of [at(1, ONE, NEW), at(1, TWO, OLD)]) {
    const cursor = started(5);
    assert.equal(cursor.event(place), "keep");
    const [{ first, last }] = cursor.takeLosses();
    assert.deepEqual([first, last, cursor.last], [6, null, 1]);
  }
});

test("what is given up is a loss, once", () => {
  const cursor = started(2);
  cursor.giveUp(7, "gone");
  cursor.giveUp(7, "gone");
  assert.deepEqual(cursor.takeLosses(), [{ event: "stream_loss", stream: "m/1/0", first: 3, last: 7, reason: "gone" }]);
  assert.equal(cursor.event(at(8)), "keep");
});
