// MessagingClient against a small Messaging API on a real ROUTER.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { inspect } from "node:util";
import { test as run } from "node:test";
import { Publisher } from "zeromq";
import { LogosError, MessagingClient } from "../lib/index.mjs";
import { MiniMapi, Refusal, until } from "./server.mjs";

const TOPIC = "/a/1/b/c";
const test = (name, body) =>
  run(name, { timeout: 20_000 }, async () => {
    const server = await MiniMapi.start();
    try {
      await body(server);
    } finally {
      await server.close();
    }
  });
const connected = async (server, options, body) => {
  const client = await MessagingClient.connect(server.endpoint, options);
  try {
    await body(client, server.app);
  } finally {
    await client.close();
  }
};
const payloads = async (client, count) => {
  const found = [];
  while (found.length < count) {
    const event = await client.nextEvent(5_000);
    assert.equal(event.event, "message_received", inspect(event));
    found.push(event.payload.toString());
  }
  return found;
};
const code = (wanted) => (error) => error instanceof LogosError && error.code === wanted;

test("what a client knows after connecting", (server) =>
  connected(server, { name: "me" }, async (client) => {
    assert.deepEqual([client.name, client.durable, client.connected], ["me", true, true]);
    assert.equal(client.limits.max_payload, 140_000);
    assert.equal(client.network.cluster, 42);
    assert.equal((await client.status()).connection, "Connected");
    assert.deepEqual(await client.subscribe([TOPIC, "bad"]), { bad: "not a topic" });
    assert.deepEqual(await client.subscriptions(), [TOPIC]);
    await assert.rejects(client.subscribe("bad"), code("bad_request"));
  }));

test("the status is known from the hello on", (server) =>
  connected(server, {}, async (client, app) => {
    assert.equal(client.lastStatus.connection, "Connected");
    server.emit(app, 5, ["Disconnected", "no peers"]);
    server.emit(app, 6, ["/a/1/b/d", "UNHEALTHY"]);
    await until(() => client.counters.received === 2);
    const { connection, reason, topics } = client.lastStatus;
    assert.deepEqual([connection, reason, topics], ["Disconnected", "no peers", { "/a/1/b/d": "UNHEALTHY" }]);
  }));

test("a send has the timestamp that it is given, where the Messaging API can do that", async (server) => {
  const timestamp = 1_735_689_600_123_456_789n;
  await connected(server, {}, async (client) => {
    await client.send(TOPIC, Buffer.from("x"), { timestamp });
    assert.equal(server.requests.at(-1).body.timestamp, Number(timestamp));
    await assert.rejects(client.send(TOPIC, Buffer.from("x"), { timestamp: 1.5 }), TypeError);
  });
  server.features = [];
  await connected(server, {}, (client) => assert.rejects(client.send(TOPIC, Buffer.from("x"), { timestamp }), code("unknown_method")));
});

const seal = async (segment) => Buffer.concat([Buffer.from("sealed "), Buffer.from(segment).reverse()]);
const unseal = (segment) => {
  if (!segment.toString("latin1").startsWith("sealed ")) throw new Error("not sealed");
  return Buffer.from(segment.subarray(7)).reverse();
};
const withHooks = (server) => {
  server.features = ["channels", "channel_hooks"];
  server.handlers["channel.create"] = () => ({ sender_id: "me", existed: false });
  server.handlers["channel.opened"] = () => ({});
  server.handlers["channel.split"] = (app, body, blobs) => [{ sizes: [2, Buffer.concat(blobs).length - 2], needed: 2 }, blobs];
};

test("a channel with hooks: segments are encrypted here and sent as they come out", async (server) => {
  withHooks(server);
  await connected(server, { name: "me" }, async (client) => {
    client.setChannelEncryption("room", seal, unseal);
    await client.createChannel("room", TOPIC, { hooks: true });
    await client.sendToChannel("room", Buffer.from("hello"));
    const created = server.requests.find(({ method }) => method === "channel.create");
    const { body, blobs } = server.requests.find(({ method }) => method === "channel.send");
    assert.equal(created.body.hooks, true);
    assert.equal(Buffer.concat(blobs).toString(), "sealed ehsealed oll");
    const digest = createHash("sha256").update("hello").digest();
    assert.deepEqual(body.sealed, { sizes: [9, 10], needed: 2, digest });
    client.setChannelEncryption("room", () => "text", unseal);
    await assert.rejects(client.sendToChannel("room", Buffer.from("hello")), /encryption failed: a hook returns bytes/);
    assert.equal(server.requests.filter(({ method }) => method === "channel.send").length, 1);
    client.clearChannelEncryption("room");
    assert.throws(() => client.clearChannelEncryption("room"), code("bad_request"));
  });
});

test("a channel with hooks: segments are decrypted here and given back in their order, before they are acknowledged", async (server) => {
  withHooks(server);
  await connected(server, { name: "me" }, async (client, app) => {
    const segment = (id, payload) => server.emit(app, 20, ["room", "she", id], Buffer.from(payload));
    let refusals = 1;
    server.handlers["channel.opened"] = () => {
      assert.deepEqual(app.acks, []);
      if (refusals-- > 0) throw new Refusal("busy", "later", true);
      return {};
    };
    client.setChannelEncryption("room", seal, unseal);
    segment("a", await seal(Buffer.from("one")));
    segment("b", "garbage");
    server.emit(app, 13, ["room", "she", "a", 1], Buffer.from("one"));
    const event = await client.nextEvent(5_000);
    assert.deepEqual([event.event, event.payload.toString()], ["channel_message_received", "one"]);
    const opened = server.requests.filter(({ method }) => method === "channel.opened");
    const given = opened.map(({ body, blobs }) => [body.message_id, body.error, ...blobs.map(String)]);
    assert.deepEqual(given, [["a", undefined, "one"], ["a", undefined, "one"], ["b", "not sealed"]]);
    client.clearChannelEncryption("room");
    segment("c", "closed");
    assert.equal((await client.nextEvent(5_000)).event, "channel_segment_received"); // without hooks it is the app's
  });
});

test("hooks need a Messaging API that has them", (server) =>
  connected(server, { name: "me" }, async (client) => {
    assert.throws(() => client.setChannelEncryption("room", "encrypt", unseal), TypeError);
    await assert.rejects(client.createChannel("room", TOPIC, { hooks: true }), code("unknown_method"));
  }));

test("a payload for a channel travels in blobs that the Messaging API takes", (server) =>
  connected(server, {}, async (client) => {
    await client.sendToChannel("room", Buffer.alloc(450_000));
    const { method, blobs } = server.requests.at(-1);
    assert.deepEqual([method, ...blobs.map(({ length }) => length)], ["channel.send", 200_000, 200_000, 50_000]);
  }));

test("a loop that is left, again and again, neither stalls the stream nor shows an event twice", (server) =>
  connected(server, { name: "me", credit: 10_000 }, async (client, app) => {
    for (let number = 0; number < 40; number += 1) server.message(app, String(number).padEnd(2_000));
    const seen = [];
    for (let number = 0; number < 40; number += 1) {
      for await (const event of client) {
        seen.push(Number(event.payload));
        break;
      }
    }
    assert.deepEqual(seen, [...Array(40).keys()]);
    await until(() => app.acked === 39); // the last one is in hand
    await client.close({ handled: true });
    assert.equal(app.acked, 40);
    assert.equal(server.requests.at(-1).method, "goodbye");
  }));

test("an event whose handling failed comes again", async (server) => {
  for (const handled of [undefined, true]) {
    const client = await MessagingClient.connect(server.endpoint, { name: "me" });
    if (!server.app.events.length) server.message(server.app, "once more");
    assert.deepEqual(await payloads(client, 1), ["once more"]);
    await client.close({ handled });
    assert.equal(server.app.acked, handled ? 1 : 0);
  }
});

test("a loop whose body throws leaves its event to come again, also with close in a finally", async (server) => {
  const handle = async () => {
    const client = await MessagingClient.connect(server.endpoint, { name: "me" });
    try {
      if (!server.app.events.length) server.message(server.app, "once more");
      for await (const event of client) throw new Error(`cannot handle ${event.payload}`);
    } finally {
      await client.close();
    }
  };
  for (let round = 0; round < 2; round += 1) await assert.rejects(handle(), /cannot handle once more/);
  assert.equal(server.app.acked, 0);
});

test("500 sends at once wait for a place", (server) =>
  connected(server, {}, async (client) => {
    server.handlers.send = async (_app, { request_id }) => {
      if (server.inFlight > 16) throw new Refusal("busy", "too many at once", true);
      await new Promise((resolve) => setTimeout(resolve, 1));
      return { request_id, repeated: false };
    };
    const ids = await Promise.all([...Array(500).keys()].map((n) => client.send(TOPIC, Buffer.from([n % 256]))));
    assert.equal(new Set(ids.map(String)).size, 500);
    assert.equal(server.mostInFlight, 16);
  }));

test("a slow app bounds what is sent to it", (server) =>
  connected(server, { credit: 100_000 }, async (client, app) => {
    for (let number = 0; number < 100; number += 1) server.message(app, Buffer.alloc(10_000));
    await until(() => client.counters.received === 10);
    assert.equal(app.sent, 10);
    await payloads(client, 100);
    assert.equal(app.sent, 100);
    assert.ok(client.bufferedBytes <= 110_000);
  }));

test("a named app resumes after a restart, and a send under way is repeated under its id", (server) =>
  connected(server, { name: "me" }, async (client, app) => {
    server.message(app, "0");
    assert.deepEqual(await payloads(client, 1), ["0"]);
    const usual = server.handlers.send;
    server.handlers.send = () => new Promise(() => {});
    const sending = client.send(TOPIC, Buffer.from("x"));
    await until(() => server.requests.some(({ method }) => method === "send"));
    server.stop();
    assert.equal((await client.nextEvent(5_000)).event, "link_lost");
    server.handlers.send = usual;
    await server.listen();
    server.message(app, "1");
    const { event, resumed, last_seq } = await client.nextEvent(5_000);
    assert.deepEqual([event, resumed, last_seq], ["link_restored", true, 1]);
    assert.deepEqual(await payloads(client, 1), ["1"]);
    const id = await sending;
    const tried = server.requests.filter(({ method }) => method === "send").map(({ body }) => body.request_id);
    assert.deepEqual(tried, [id, id]);
    const [first, second] = server.requests.filter(({ method }) => method === "hello").map(({ body }) => body.seen);
    assert.equal(first ?? null, null, "nothing was seen before the first hello");
    assert.deepEqual([Number(second.seq), second.instance.length], [1, 16], "the last event that came, and where from");
  }));

test("an ephemeral app is subscribed again and learns what is lost", (server) =>
  connected(server, {}, async (client, app) => {
    await client.subscribe(TOPIC);
    server.stop();
    await server.listen();
    assert.equal((await client.nextEvent(5_000)).event, "link_lost");
    const restored = await client.nextEvent(5_000);
    assert.deepEqual([restored.resumed, restored.lost_stream, restored.last_seq], [false, app.stream, 0]);
    assert.deepEqual(await client.subscriptions(), [TOPIC]);
  }));

test("a server that forgot the connection is greeted again", (server) =>
  connected(server, { name: "me" }, async (client) => {
    server.forgetConnections();
    assert.equal((await client.status()).connection, "Connected");
    assert.equal((await client.nextEvent(5_000)).event, "link_lost");
    assert.equal((await client.nextEvent(5_000)).event, "link_restored");
  }));

test("gaps are said, unknown kinds are acknowledged unseen, garbage is counted", (server) =>
  connected(server, { name: "me" }, async (client, app) => {
    server.raw(app, [Buffer.from("LD1"), Buffer.from([0x92, 1, 2])]);
    server.raw(app, [Buffer.from("XXX")]);
    server.emit(app, 77, ["later version"]);
    server.emit(app, 10, [Buffer.alloc(16)], undefined, 5);
    const gap = await client.nextEvent(5_000);
    assert.deepEqual([gap.event, gap.first, gap.last], ["events_dropped", 2, 4]);
    assert.equal((await client.nextEvent(5_000)).event, "message_cancelled");
    assert.deepEqual([client.counters.unknown, client.counters.missing, client.counters.garbage], [1, 3, 1]);
    await until(() => app.acked === 1);
  }));

test("callbacks: in order, awaited, of all kinds; what one throws shows no payload", (server) =>
  connected(server, { name: "me" }, async (client, app) => {
    const [seen, all, errors] = [[], [], []];
    const usual = console.error;
    console.error = (...parts) => errors.push(parts.map((part) => inspect(part)).join(" "));
    try {
      const remove = client.on("message_received", async (event) => {
        await null;
        seen.push(String(event.payload));
        if (seen.length === 2) throw new Error("no");
      });
      client.on("*", ({ event }) => all.push(event));
      ["secret 0", "secret 1", "secret 2"].forEach((payload) => server.message(app, payload));
      await until(() => all.length === 3 && app.acked === 3);
      assert.deepEqual(seen, ["secret 0", "secret 1", "secret 2"]);
      assert.equal(errors.length, 1);
      assert.ok(errors[0].includes("message_received") && !errors[0].includes("secret"), errors[0]);
      remove();
      server.message(app, "3");
      await until(() => all.length === 4);
      assert.equal(seen.length, 3);
    } finally {
      console.error = usual;
    }
    assert.throws(() => client.on("MessageReceived", () => {}), /no kind of event.*message_received/);
    assert.throws(() => client.on("message_received"), TypeError);
  }));

test("a time limit, and the end", async (server) => {
  const client = await MessagingClient.connect(server.endpoint);
  await assert.rejects(client.nextEvent(5), code("deadline_exceeded"));
  const waiting = client.nextEvent();
  await assert.rejects(client.nextEvent(), /waited for already/);
  await client.close();
  assert.equal(await waiting, null);
  await assert.rejects(client.send(TOPIC, Buffer.from("x")), (error) => code("not_ready")(error) && !error.retriable);
  for await (const event of client) assert.fail(inspect(event));
});

test("taken over", (server) =>
  connected(server, { name: "me" }, async (client, app) => {
    server.emit(app, 11);
    assert.equal((await client.nextEvent(5_000)).event, "taken_over");
    assert.equal(await client.nextEvent(5_000), null);
    await assert.rejects(client.status(), code("conflict"));
  }));

test("wrong arguments are refused with what is right", (server) =>
  connected(server, {}, async (client) => {
    const { endpoint } = server;
    const refused = [
      [["http://localhost:8645"], /ipc:.*tcp:.*run directory.*not http/],
      [[null], /endpoint: a string, not null/],
      [[""], /endpoint/],
      [["foo://bar"], /not foo/],
      [["tcp://nonsense"], /not an endpoint/],
      [["x".repeat(200)], /107 bytes/],
      [["ipc:///run/kernel/requests"], /kernel\/requests.*mapi\/apps/],
      [["ipc:///run/mapi/control"], /mapi\/control/],
      [[endpoint, { ack: "foo" }], /ack: "auto" or "manual"/],
      [[endpoint, { name: "No Name" }], /name: 1 to 64/],
      [[endpoint, { credit: 0 }], /credit/],
      [[endpoint, { timeout: "5" }], /timeout/],
    ];
    for (const [args, message] of refused) {
      await assert.rejects(MessagingClient.connect(...args), (error) => error instanceof TypeError && message.test(error.message));
    }
    await assert.rejects(client.send(TOPIC, "text"), /payload: bytes.*not string; Buffer.from/);
    await assert.rejects(client.send(TOPIC, Buffer.from("x"), { requestId: Buffer.alloc(3) }), /16 bytes, not 3/);
    await assert.rejects(client.subscribe(7), /content topic: a string/);
    await assert.rejects(client.send(TOPIC, Buffer.alloc(200_001)), (error) => code("too_large")(error) && /153600.*200001/.test(error.message));
  }));

test("servers of other kinds are named, and a bad path ends in an error", async (server) => {
  server.hello = () => ({ protocol: 1, server: "logos-kernel/9", consumer: "x", streams: [], limits: {}, network: {} });
  await assert.rejects(MessagingClient.connect(server.endpoint), (error) => code("bad_request")(error) && /a kernel \(logos-kernel\/9\)/.test(error.message));
  server.hello = () => ({});
  await assert.rejects(MessagingClient.connect(server.endpoint), (error) => code("bad_request")(error) && /not that of a Messaging API/.test(error.message));
  await assert.rejects(MessagingClient.connect("ipc:///no/such/place", { timeout: 50 }), code("not_ready"));

  const events = new Publisher({ linger: 0 });
  await events.bind(`ipc://${server.directory}/events`);
  const failed = (error) => code("not_ready")(error) && /takes no requests/.test(error.message);
  await assert.rejects(MessagingClient.connect(`ipc://${server.directory}/events`, { timeout: 1_000 }), failed);
  events.close();
});

test("a program whose connect fails has nothing left to wait for", async (server) => {
  server.hello = () => ({});
  const program = `
    import { MessagingClient } from ${JSON.stringify(new URL("../lib/index.mjs", import.meta.url).href)};
    await MessagingClient.connect("ipc:///no/such/place", { timeout: 20 }).catch(({ code }) => console.log(code));
    await MessagingClient.connect(${JSON.stringify(server.endpoint)}).catch(({ code }) => console.log(code));
    const left = process.getActiveResourcesInfo().filter((name) => name === "Timeout");
    setImmediate(() => console.log(left.length));`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", program], { stdio: ["ignore", "pipe", "inherit"] });
  let said = "";
  child.stdout.on("data", (data) => (said += data));
  const status = await new Promise((resolve) => child.on("exit", resolve));
  assert.deepEqual([status, said], [0, "not_ready\nbad_request\n0\n"]);
});

test("an event prints its ids as hex, and as JSON", (server) =>
  connected(server, { name: "me" }, async (client, app) => {
    server.message(app, "hello");
    const event = await client.nextEvent(5_000);
    assert.ok(inspect(event).startsWith("message_received {"), inspect(event));
    assert.ok(inspect(event).includes(`'${app.stream.toString("hex")}'`));
    const { stream_id, payload, seq } = JSON.parse(JSON.stringify(event));
    assert.deepEqual([stream_id, payload, seq], [app.stream.toString("hex"), Buffer.from("hello").toString("hex"), 1]);
  }));
