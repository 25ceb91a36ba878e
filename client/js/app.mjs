// An app driven by lines of JSON on its input, for tests and for trying things out:
//
//     node app.mjs ipc:///…/run/mapi/apps [name]
//     {"id": 1, "cmd": "subscribe", "topics": ["/toychat/2/huilong/proto"]}
//     {"id": 2, "cmd": "send", "topic": "/toychat/2/huilong/proto", "payload": "48656c6c6f"}
//
// Each command is answered by {"id", "ok", "result" | "error"}; events of the stream are lines {"event", …}.
// Bytes are hex, large integers text.
import { createInterface } from "node:readline";
import { MessagingClient } from "./lib/index.mjs";

const [endpoint, name] = process.argv.slice(2);

const readable = (value) => {
  if (Buffer.isBuffer(value)) return value.toString("hex");
  if (typeof value === "bigint") return value.toString();
  if (Array.isArray(value)) return value.map(readable);
  if (value === null || typeof value !== "object") return value ?? null;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, readable(item)]));
};
const print = (value) => process.stdout.write(JSON.stringify(readable(value)) + "\n");

const client = await MessagingClient.connect(endpoint, { name, credit: 200_000, timeout: 20_000 });
let paused = Promise.resolve();
let resume = () => {};

const commands = {
  subscribe: ({ topics }) => client.subscribe(topics),
  unsubscribe: ({ topics }) => client.unsubscribe(topics),
  send: ({ topic, payload, request_id }) =>
    client.send(topic, Buffer.from(payload, "hex"), request_id && { requestId: Buffer.from(request_id, "hex") }),
  create_channel: ({ channel, topic }) => client.createChannel(channel, topic),
  send_to_channel: ({ channel, payload }) => client.sendToChannel(channel, Buffer.from(payload, "hex")),
  status: () => client.status(),
  call: ({ method, body }) => client.call(method, body),
  // Stops asking for events: they wait in the Messaging API, beyond the credit.
  pause: () => void (paused = new Promise((done) => (resume = done))),
  resume: () => resume(),
  stop: () => client.close(),
};

(async () => {
  for await (const event of client) {
    print(event);
    await paused;
  }
})();
print({ event: "connected" });

for await (const line of createInterface({ input: process.stdin })) {
  const { id, cmd, ...rest } = JSON.parse(line);
  try {
    if (!Object.hasOwn(commands, cmd)) throw new TypeError(`no command ${cmd}: ${Object.keys(commands).join(", ")}`);
    print({ id, ok: true, result: await commands[cmd](rest) });
  } catch (error) {
    print({ id, ok: false, error: error.code ?? String(error) });
  }
  if (cmd === "stop") process.exit(0);
}
await client.close();
