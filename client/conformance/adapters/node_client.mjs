// The adapter of client/js: commands as lines of JSON on stdin, answers on stdout. See ../README.md.
import { createInterface } from "node:readline";
import { KernelClient, LogosError, MessagingClient } from "../../js/lib/index.mjs";

let client;
let event;
let kernel;
let feed;

const flipped = (segment) => segment.map((byte) => byte ^ 0x20);
const seal = (segment) => Buffer.concat([Buffer.from("+"), flipped(segment)]);
const unseal = (segment) => {
  if (segment[0] !== 0x2b) throw new Error("not sealed");
  return flipped(segment.subarray(1));
};

const commands = {
  connect: async ({ endpoint, timeout, ...options }) => void (client = await MessagingClient.connect(endpoint, { timeout, ...options })),
  kernel_connect: async ({ directory, ...options }) => void (kernel = await KernelClient.connect(directory, options)),
  next: async ({ timeout }) => (event = await client.nextEvent(timeout)),
  send: async ({ topic, payload, request_id, timeout }) => {
    const requestId = request_id && Buffer.from(request_id, "hex");
    return (await client.send(topic, Buffer.from(payload, "hex"), { requestId, timeout })).toString("hex");
  },
  status: ({ timeout }) => client.status({ timeout }),
  find_send: async ({ request_id, channel }) => {
    const id = Buffer.from(request_id, "hex");
    if (channel !== undefined) return (await client.findChannelSend(channel, id))?.end ?? null;
    return (await client.findSend(id))?.state ?? null;
  },
  subscribe: ({ topics }) => client.subscribe(topics),
  unsubscribe: ({ topics }) => client.unsubscribe(topics),
  subscriptions: ({ timeout }) => client.subscriptions({ timeout }),
  channel_create: async ({ channel, topic }) => {
    client.setChannelEncryption(channel, seal, unseal);
    await client.createChannel(channel, topic, { hooks: true });
  },
  channel_send: async ({ channel, payload }) => (await client.sendToChannel(channel, Buffer.from(payload, "hex"))).toString("hex"),
  ack: () => client.ack(event),
  close: () => client.close({ handled: true }),
};

const ofKernel = {
  feed: async ({ shards, max_bytes }) => void (feed = await kernel.events({ shards, health: true, peers: true, maxBytes: max_bytes })),
  next: ({ timeout }) => feed.nextEvent(timeout),
  publish: ({ topic, payload, timeout }) => kernel.publish(topic, Buffer.from(payload, "hex"), { timeout }),
  query: async ({ topics }) => {
    const { MyPeerId: peer } = await kernel.info(["MyPeerId"]);
    const { messages } = await kernel.queryStore({ content_topics: topics, include_data: true, peer });
    return messages.map(({ payload }) => payload.toString("hex"));
  },
  peers: () => kernel.peers(),
  health: () => kernel.health(),
  close: () => kernel.close(),
};

const answer = async ({ id, cmd, timeout_ms = 10_000, ...rest }) => {
  let said;
  try {
    said = { ok: true, result: await (kernel ? ofKernel : commands)[cmd]({ timeout: timeout_ms, ...rest }) };
  } catch (error) {
    if (!(error instanceof LogosError)) throw error;
    const { code, retriable, message, retry_after_ms } = error;
    said = { ok: false, error: { code, retriable, message, retry_after_ms } };
  }
  process.stdout.write(JSON.stringify({ id, ...said }) + "\n");
};

for await (const line of createInterface({ input: process.stdin })) answer(JSON.parse(line));
process.exit(0);
