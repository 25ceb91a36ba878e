// How a page in TypeScript sees the package. Never run: `npm run check` compiles it, without Node.js's types.
import { LogosError, MessagingClient, type Event, type MessageReceived } from "logos-mapi-client/web";

const client: MessagingClient = await MessagingClient.connect("https://node.example:8645", {
  name: "page", token: () => sessionStorage.getItem("token") ?? "", ack: "manual",
});
const id: Uint8Array = await client.send("/a/1/b/c", new TextEncoder().encode("hello"));
const remove: () => void = client.on("message_received", (event: MessageReceived) => console.log(event.payload.byteLength));
const event: Event | null = await client.nextEvent(1_000);
if (event?.event === "message_error") console.log(event.text, event.request_id === id);
const { sends } = await client.pending();
const oldest: Uint8Array | undefined = sends[0]?.request_id;
for await (const next of client) {
  await client.ack(next);
  break;
}
remove();
try {
  await client.cancel(oldest ?? id);
} catch (error) {
  if (error instanceof LogosError) console.log(error.code, error.retriable, client.limits.max_payload);
}
await client.close({ handled: true });

// @ts-expect-error an app over a gateway has a name
await MessagingClient.connect("https://node.example:8645", {});
