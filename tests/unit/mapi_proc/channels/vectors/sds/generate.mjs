// Writes ../js_sds.json with @waku/sds 0.0.8 (tests/interop/sdk): run there with
//   node ../../unit/mapi_proc/channels/vectors/sds/generate.mjs > ../../unit/mapi_proc/channels/vectors/js_sds.json
import { createHash } from "node:crypto";
import { pathToFileURL } from "node:url";

const dist = (path) => import(pathToFileURL(`${process.cwd()}/node_modules/@waku/sds/dist/${path}`).href);
const { DefaultBloomFilter } = await dist("bloom_filter/bloom.js");
const { Message } = await dist("message_channel/message.js");

const hex = (bytes) => Buffer.from(bytes).toString("hex");
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
const ids = (count) => Array.from({ length: count }, (_, i) => createHash("sha256").update(`${i}`).digest("hex"));

const bloom = (items) => {
  const filter = new DefaultBloomFilter({ capacity: 10000, errorRate: 0.001 });
  items.forEach((item) => filter.insert(item));
  return filter;
};
const words = ["a", "hello", "x".repeat(100), ...ids(5)];
const message = new Message(
  "message-1",
  "channel",
  "alice",
  [{ messageId: "before", retrievalHint: new Uint8Array([1, 2, 3]), senderId: "bob" }, { messageId: "plain" }],
  1700000000123n,
  new Uint8Array([9, 8, 7]),
  new TextEncoder().encode("content"),
  [{ messageId: "missed", senderId: "carol" }]
);
const sync = new Message("sync-1", "channel", "alice", [{ messageId: "before" }], 5n, undefined, undefined, []);

console.log(
  JSON.stringify(
    {
      positions: Object.fromEntries(words.map((word) => [word, bloom([]).computeHashes(word)])),
      filters: [0, 1, 100, 1000].map((count) => ({ count, sha256: sha256(bloom(ids(count)).toBytes()) })),
      message: hex(message.encode()),
      sync: hex(sync.encode()),
    },
    null,
    1
  )
);
