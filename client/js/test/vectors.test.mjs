// Replays the contract's vectors (ipc_schema/vectors/frames.json): what a client sends, and what it gets.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { LogosError } from "../lib/errors.mjs";
import { decodeEvent, decodeKernelEvent, decodeReply, encodeRequest, isEvent } from "../lib/frames.mjs";

const { version, vectors } = JSON.parse(readFileSync(new URL("../../../ipc_schema/vectors/frames.json", import.meta.url)));
const frames = (vector) => vector.frames.map((hex) => Buffer.from(hex, "hex"));
const hex = (list) => list.map((frame) => Buffer.from(frame).toString("hex"));

// {"$bin": hex} is bytes, {"$int": decimal} an integer that a JavaScript number does not hold.
const meaning = (value) => {
  if (Array.isArray(value)) return value.map(meaning);
  if (value === null || typeof value !== "object") return value;
  if ("$bin" in value) return Buffer.from(value.$bin, "hex");
  if ("$int" in value) return BigInt(value.$int);
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, meaning(item)]));
};

const DECODERS = { reply: decodeReply, app_event: decodeEvent, kernel_event: decodeKernelEvent };

// JavaScript has one type of numbers: a float that is whole cannot be told from an integer.
const SAME = "event seq is a float";

test("version", () => assert.equal(version, 1));

for (const vector of vectors) {
  const good = vector.meaning && meaning(vector.meaning);
  if (vector.kind === "request" && good && vector.exact) {
    test(`request: ${vector.name}`, () => {
      const { correlation_id, method, body, blobs, budget_ms, flags, delimited } = good;
      const made = encodeRequest(correlation_id, method, body, blobs, { budgetMs: budget_ms, flags });
      assert.deepEqual(hex(delimited ? [Buffer.alloc(0), ...made] : made), vector.frames);
    });
  } else if (vector.kind === "reply" && good) {
    test(`reply: ${vector.name}`, () => {
      const reply = decodeReply(frames(vector));
      assert.ok(!isEvent(frames(vector)));
      assert.deepEqual(reply.id, good.correlation_id);
      assert.deepEqual(reply.instance, good.instance);
      assert.deepEqual(reply.body, good.body);
      assert.deepEqual(reply.blobs, good.blobs);
      if (!vector.code) return assert.equal(reply.error, null);
      assert.deepEqual([reply.error.code, reply.error.retriable], [vector.code, vector.retriable]);
    });
  } else if (vector.kind === "app_event" && good) {
    test(`event: ${vector.name}`, () => {
      assert.ok(isEvent(frames(vector)));
      assert.deepEqual(decodeEvent(frames(vector)), good);
    });
  } else if (vector.kind === "kernel_event" && good) {
    test(`kernel event: ${vector.name}`, () => assert.deepEqual(decodeKernelEvent(frames(vector)), good));
  } else if (!good && vector.kind in DECODERS && vector.name !== SAME) {
    test(`bad ${vector.kind}: ${vector.name}`, () => {
      const decode = DECODERS[vector.kind];
      assert.throws(() => decode(frames(vector)), (error) => error instanceof LogosError && error.code === vector.error);
    });
  }
}
