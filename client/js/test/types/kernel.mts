// How a program in TypeScript sees the client of a kernel. Never run: see app.mts.
import { KernelClient, type KernelEvent, type KernelMessage, type StorePage } from "logos-mapi-client";

const shown = (event: KernelEvent): string => {
  switch (event.event) {
    case "message":
      return `${event.content_topic} ${event.payload.toString()} ${event.stream} ${event.seq}`;
    case "stream_loss":
      return event.last === null ? "all of it" : `${event.first} to ${event.last}`;
    case "peer":
      return `${event.change} ${event.peer.peer_id} ${event.peer.score ?? 0}`;
    case "health":
      return event.health.shards.map(({ health }) => health).join();
    case "kernel_found":
      return String(event.restarted);
    default:
      return JSON.stringify(event);
  }
};

const kernel: KernelClient = await KernelClient.connect("data/run", { name: "tool", kind: "tool" });
const { peers, duplicate } = await kernel.publish("/a/1/b/c", new Uint8Array([1]), { timestamp: 1n, force: true });
const page: StorePage = await kernel.queryStore({ content_topics: ["/a/1/b/c"], time_start: 0n, include_data: true });
const payload: Buffer | undefined = page.messages?.[0]?.payload;
const feed = await kernel.events({ shards: [0], after: { 0: { epoch: new Uint8Array(8), seq: 3 } } });
for await (const event of feed) {
  console.log(shown(event), peers, duplicate, payload, (await kernel.mesh())["topic"]?.length, kernel.limits.replay_bytes);
  if (event.event === "message") console.log((event satisfies KernelMessage).message_hash.length);
  break;
}
await feed.close();
await kernel.close();

// @ts-expect-error there is no such kind of consumer
await KernelClient.connect("data/run", { kind: "browser" });
// @ts-expect-error a text is no payload
await kernel.publish("/a/1/b/c", "text");
