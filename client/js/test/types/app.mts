// How a program in TypeScript sees the package. Never run: `npm run check` compiles it against the emitted types.
import { LogosError, MessagingClient, type Event, type MessageReceived, type Status } from "logos-mapi-client";

const shown = (event: Event): string => {
  switch (event.event) {
    case "message_received":
      return `${event.content_topic} ${event.payload.toString()} ${event.seq}`;
    case "message_error":
      return `${event.request_id.toString("hex")} ${event.text} ${event.message_hash?.toString("hex")}`;
    case "link_restored":
      return event.resumed ? "it goes on" : `all after ${event.last_seq} is lost`;
    default:
      return JSON.stringify(event);
  }
};

const client: MessagingClient = await MessagingClient.connect("data/run", { name: "typed", ack: "manual" });
const refused: Record<string, string> = await client.subscribe(["/a/1/b/c"], { sinceLast: true });
const id: Buffer = await client.send("/a/1/b/c", new Uint8Array([1]), { ephemeral: true });
const remove: () => void = client.on("message_received", (event: MessageReceived) => console.log(event.payload));
client.on("*", (event) => console.log(event.event));
const status: Status = await client.status();
const known: string = client.lastStatus.connection;
const { sends, total } = await client.pending();
const state: string | undefined = (await client.findSend(id))?.state;
const oldest: Buffer | undefined = sends[0]?.request_id;
for await (const event of client) {
  console.log(shown(event), refused, id, state, status.topics, known, total, oldest, client.limits.max_payload);
  await client.ack(event);
  break;
}
remove();
const next: Event | null = await client.nextEvent(5_000);
try {
  await client.cancel(id);
} catch (error) {
  if (error instanceof LogosError && error.retriable) console.log(error.code, error.retry_after_ms, next);
}
await client.close({ handled: true });

// @ts-expect-error a text is no payload
await client.send("/a/1/b/c", "text");
// @ts-expect-error there is no such kind
client.on("MessageReceived", () => {});
// @ts-expect-error there is no such mode
await MessagingClient.connect("data/run", { ack: "foo" });
