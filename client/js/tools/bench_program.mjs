// The Node.js program of the benchmark `clients`; tests/bench/clients/driver.py has its command line.
import { randomBytes } from "node:crypto";
import { Dealer } from "zeromq";
import { encodeRequest } from "../lib/frames.mjs";
import { MessagingClient } from "../lib/index.mjs";

const TOPIC = "/bench/1/clients/plain";
const WINDOW = 64;

/** @param {number[]} delays sorted @param {number} share */
const percentile = (delays, share) => delays[Math.floor((delays.length - 1) * share)];

/** Times what happens from now until the returned function is called. */
const stopwatch = () => {
  const cpu = process.cpuUsage();
  const start = performance.now();
  return (/** @type {number[]} */ delays = []) => {
    const seconds = (performance.now() - start) / 1000;
    const { user, system } = process.cpuUsage(cpu);
    delays.sort((a, b) => a - b);
    const shares = delays.length ? { p50_us: percentile(delays, 0.5), p99_us: percentile(delays, 0.99) } : {};
    console.log(JSON.stringify({ event: "done", seconds, cpu_us: user + system, ...shares }));
  };
};

/** The µs that each of `count` calls takes. @param {number} count @param {() => Promise<unknown>} call */
const timeEach = async (count, call) => {
  const delays = [];
  for (let done = 0; done < count; done += 1) {
    const start = performance.now();
    await call();
    delays.push((performance.now() - start) * 1000);
  }
  return delays;
};

/** @param {string} role @param {string} endpoint @param {number} count @param {number} size */
const client = async (role, endpoint, count, size) => {
  const app = await MessagingClient.connect(endpoint);
  const payload = Buffer.alloc(size);
  if (role === "receive") {
    await app.subscribe(`/bench/1/${count}/${size}`);
    await app.nextEvent(10_000);
    const done = stopwatch();
    for (let seq = 2; seq <= count; seq += 1) {
      const event = await app.nextEvent(10_000);
      if (event?.event !== "message_received" || event.seq !== seq) throw new Error(`${event} instead of message ${seq}`);
    }
    done();
  } else if (role === "send") {
    let taken = 0;
    const some = async () => {
      while (taken++ < count) await app.send(TOPIC, payload);
    };
    const done = stopwatch();
    await Promise.all(Array.from({ length: WINDOW }, some));
    done();
  } else {
    const done = stopwatch();
    done(await timeEach(count, () => app.send(TOPIC, payload)));
  }
  await app.close();
};

/** @param {string} role @param {string} endpoint @param {number} count @param {number} size */
const bare = async (role, endpoint, count, size) => {
  const dealer = new Dealer({ linger: 0 });
  dealer.connect(endpoint);
  const body = { request_id: randomBytes(16), content_topic: TOPIC };
  const request = encodeRequest(randomBytes(16), "send", body, [Buffer.alloc(size)]);
  if (role === "receive") {
    await dealer.send(["flood", String(count), String(size)]);
    await dealer.receive();
    const done = stopwatch();
    for (let left = count - 1; left; left -= 1) await dealer.receive();
    done();
  } else if (role === "send") {
    const done = stopwatch();
    for (let number = 0; number < count + WINDOW; number += 1) {
      if (number >= WINDOW) await dealer.receive();
      if (number < count) await dealer.send(request);
    }
    done();
  } else {
    const done = stopwatch();
    done(await timeEach(count, async () => (await dealer.send(request), dealer.receive())));
  }
  dealer.close();
};

const [role, side, endpoint, count, size] = process.argv.slice(2);
await (side === "client" ? client : bare)(role, endpoint, Number(count), Number(size));
