"""The reference of the bench `bridge`: the same messages published to JetStream by nats-py alone.

    python -m tests.bench.bridge_bare NATS_URL

Commands: publish {round, messages, size, subject, rate?}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import nats

from ipc_schema.message import WakuMessage, format_hash
from logos_bridge.headers import message_headers
from tests.bench.lines import cpu_us, emit
from tests.bench.pipeline.wire import hash_maker, payload_maker

TOPIC = "/bench/1/bare/proto"


async def main(url: str) -> None:
    async def expected(_: Exception) -> None:
        """Take no notice: the server is killed on purpose."""

    client = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=expected)
    js = client.jetstream(publish_async_max_pending=2_048)
    make_hash = hash_maker()
    emit("ready")
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        number, messages, rate = command["round"], command["messages"], command.get("rate")
        make = payload_maker(command["size"])
        cpu, start = cpu_us(), time.monotonic_ns()
        loop = asyncio.get_running_loop()
        due = loop.time()
        for index in range(messages):
            if rate:
                due += 1 / rate
                await asyncio.sleep(due - loop.time())
            full = number << 32 | index
            payload = make(full)
            message = WakuMessage(payload, TOPIC, timestamp=time.time_ns())
            headers = message_headers(format_hash(make_hash(full)), message, "relay")
            await js.publish_async(command["subject"], payload, headers=headers)
        await js.publish_async_completed()
        emit("published", start_ns=start, cpu_us=cpu_us() - cpu)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
