"""A relay node as a process of its own, driven by JSON lines:
`python -m tests.support.relay_process [node key in hex]`.

It prints {"address", "peer_id"}; then it answers one line for each command line:
connect {address, topic} · publish {count, size, topic} · received {count} · stats {} · leave {}.
It ends when its standard input does.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import trio

from kernel_proc.p2p.keys import node_key_from_hex
from tests.support.relay import TOPIC, RelayNode, relay_node, waku


def stats(node: RelayNode) -> dict[str, Any]:
    numbers = [int.from_bytes(payload[:4], "big") for payload in node.payloads]
    return {
        "received": len(numbers),
        "distinct": len(set(numbers)),
        "mesh": node.relay.mesh_peers(TOPIC),
        "topic_peers": node.relay.topic_peers(TOPIC),
        "counters": node.relay.counters(),
        "cpu": time.process_time(),
    }


async def obey(node: RelayNode, command: dict[str, Any], tag: bytes) -> dict[str, Any]:
    name = command["command"]
    if name == "connect":
        peer = await node.host.connect(command["address"])
        await node.until(lambda: peer in node.relay.mesh_peers(TOPIC))
    elif name == "publish":
        begun, cpu = time.perf_counter(), time.process_time()
        filler = tag + bytes(command["size"] - 4 - len(tag))
        for number in range(command["count"]):
            await node.relay.publish(TOPIC, waku(number.to_bytes(4, "big") + filler, time.time_ns()))
        return {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu}
    elif name == "received":
        await node.until_received(1)
        begun, cpu, had = time.perf_counter(), time.process_time(), len(node.received)
        await node.until_received(command["count"])
        count = len(node.received) - had
        return {
            "seconds": time.perf_counter() - begun,
            "cpu": time.process_time() - cpu,
            "count": count,
        } | stats(node)
    elif name == "leave":
        node.relay.unsubscribe(TOPIC)
    elif name == "clear":
        node.received.clear()
    return stats(node)


async def main() -> None:
    key = node_key_from_hex(sys.argv[1]) if len(sys.argv) > 1 else None
    async with relay_node(TOPIC, key=key) as node:
        print(json.dumps({"address": node.address, "peer_id": node.peer_id}), flush=True)
        tag = node.peer_id.encode()
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            print(json.dumps(await obey(node, json.loads(line), tag)), flush=True)


if __name__ == "__main__":
    trio.run(main)
