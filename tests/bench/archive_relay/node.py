"""The processes around the kernel of the bench `archive-relay`.

    python -m tests.bench.archive_relay.node publisher|receiver|asker ADDRESS

Publisher and receiver are relays that know only the kernel, so that what the one sends reaches the other
through it; the asker queries its store. All three work in an open loop: each message and each query has its
time, and its latency counts from then, however late it was sent.
"""

from __future__ import annotations

import argparse
import time
from random import Random
from struct import Struct
from typing import Any, Final

import trio

from ipc_schema.message import WakuMessage, encode_message
from ipc_schema.topics import shard_topic
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.protocols.metadata import MetadataProtocol
from kernel_proc.protocols.requests import call
from kernel_proc.protocols.store_codec import (
    PROTOCOL,
    StoreRequest,
    StoreStatus,
    decode_response,
    encode_request,
)
from kernel_proc.relay.messages import RelayMessage
from kernel_proc.relay.params import RelayParams
from kernel_proc.relay.service import RelayService
from tests.bench.harness import BenchError, percentile
from tests.bench.lines import commands, cpu_us, emit

TOPIC: Final = shard_topic(0, 0)
CONTENTS: Final = 50
PAYLOAD: Final = 1024
PAGE: Final = 20
DEADLINE: Final = 20.0
MAX_MESSAGE: Final = 153_600
MAX_RESPONSE: Final = 1 << 20
_HEAD: Final = Struct(">QQ")
"""Number (round and index) and the time at which it was due, in ns of the system's monotonic clock."""
_MASK: Final = 0xFFFF_FFFF


def content_topic(number: int) -> str:
    """The content topic of message `number`, preloaded or sent."""
    return f"/bench/1/{number % CONTENTS}/proto"


def make_filler(seed: int) -> bytes:
    """What follows the stamp in a payload."""
    return Random(seed).randbytes(PAYLOAD - _HEAD.size)


def stamped(number: int, index: int, due: int, filler: bytes) -> bytes:
    """The payload of message `index` of round `number`, due at that time (monotonic, ns)."""
    return _HEAD.pack(number << 32 | index, due) + filler


# --- relays ---


class _Receiver:
    """Counts the messages of a round, and how long each was under way."""

    def __init__(self) -> None:
        self._round, self._messages, self._tell_every, self._cpu = -1, 0, 0, 0.0
        self._seen = bytearray()
        self._times: list[int] = []

    def expect(self, number: int, messages: int, tell_every: int) -> None:
        self._round, self._messages, self._tell_every, self._cpu = number, messages, tell_every, cpu_us()
        self._seen, self._times = bytearray(messages), []
        emit("expecting")

    def take(self, message: RelayMessage) -> None:
        number, due = _HEAD.unpack_from(message.message.payload)
        if number >> 32 != self._round:
            return
        now, index = time.monotonic_ns(), number & _MASK
        if self._seen[index]:
            raise BenchError(f"message {index} came twice")
        self._seen[index] = 1
        self._times.append(now - due)
        if self._tell_every and len(self._times) % self._tell_every == 0:
            emit("progress")
        if len(self._times) == self._messages:
            emit(
                "received",
                last_ns=now,
                cpu_us=(cpu_us() - self._cpu) / self._messages,
                p50_ms=percentile(self._times, 0.5) / 1e6,
                p99_ms=percentile(self._times, 0.99) / 1e6,
            )


async def _publish(relay: RelayService, number: int, messages: int, rate: float) -> None:
    """Messages at a steady rate, each stamped with its time."""
    filler = make_filler(number)
    begun, start, step = trio.current_time(), time.monotonic_ns(), 1 / rate
    for index in range(messages):
        await trio.sleep_until(begun + index * step)
        due = start + int(index * step * 1e9)
        payload = stamped(number, index, due, filler)
        message = WakuMessage(payload, content_topic(index), timestamp=time.time_ns())
        result = await relay.publish(TOPIC, encode_message(message))
        if result.peers != 1:
            raise BenchError(f"message {index} went to {result.peers} peers")
    emit("published")


async def _relay(address: str) -> None:
    receiver = _Receiver()
    changed = trio.Event()

    def on_change(_topics: frozenset[str]) -> None:
        nonlocal changed
        changed.set()
        changed = trio.Event()

    host = Libp2pHost(key=NodeKey.generate())
    MetadataProtocol(host, cluster=0, shards=lambda: (0,))
    async with host.run(), trio.open_nursery() as nursery:
        relay = RelayService(
            host, RelayParams(max_rpc_size=MAX_MESSAGE), on_message=receiver.take, on_change=on_change
        )
        await nursery.start(relay.run)
        relay.subscribe(TOPIC)
        peer = await host.connect(address)
        while peer not in relay.mesh_peers(TOPIC):
            await changed.wait()
        emit("ready")
        async for command in commands():
            match command["cmd"]:
                case "expect":
                    receiver.expect(command["round"], command["messages"], command["tell_every"])
                case "publish":
                    await _publish(relay, command["round"], command["messages"], command["rate"])
        nursery.cancel_scope.cancel()


# --- the asker ---


class _Asker:
    """Pages of 20 of one content topic, anywhere in the time of what was preloaded."""

    def __init__(self, host: Libp2pHost, peer: str) -> None:
        self._host = host
        self._peer = peer
        self._random = Random(1)
        self._id = 0
        self._times: list[float] = []
        self._refused = 0

    async def run(self, command: dict[str, Any], until: trio.Event) -> None:
        """Ask `rate` times a second until the event; a slow answer delays no question."""
        self._times, self._refused = [], 0
        due = trio.current_time()
        async with trio.open_nursery() as nursery:
            while not until.is_set():
                nursery.start_soon(self._ask, due, command["start"], command["end"])
                due += 1 / command["rate"]
                await trio.sleep_until(due)
        emit(
            "asked",
            queries=len(self._times),
            refused=self._refused,
            p50_ms=percentile(self._times, 0.5) if self._times else None,
            p99_ms=percentile(self._times, 0.99) if self._times else None,
        )

    async def _ask(self, due: float, start: int, end: int) -> None:
        self._id += 1
        middle = (start + end) // 2
        request = StoreRequest(
            f"{self._id:020}",
            include_data=True,
            pubsub_topic=TOPIC,
            content_topics=(content_topic(self._random.randrange(CONTENTS)),),
            end=self._random.randrange(middle, end),
            limit=PAGE,
        )
        body = await call(
            self._host,
            self._peer,
            (PROTOCOL,),
            encode_request(request),
            decode=bytes,
            max_response=MAX_RESPONSE,
            deadline=DEADLINE,
        )
        response = decode_response(body)
        if response.status == StoreStatus.TOO_MANY_REQUESTS:  # 16 of one peer are under way at most
            self._refused += 1
            return
        if response.status != StoreStatus.SUCCESS or not response.messages:
            raise BenchError(f"a query was answered with {response.status} {response.description}")
        self._times.append((trio.current_time() - due) * 1000)


async def _asker(address: str) -> None:
    async with trio.open_nursery() as nursery:
        host = Libp2pHost(key=NodeKey.generate())
        MetadataProtocol(host, cluster=0, shards=tuple)
        await nursery.start(host.serve)
        asker = _Asker(host, await host.connect(address))
        stop = trio.Event()
        emit("ready")
        async for command in commands():
            match command["cmd"]:
                case "ask":
                    stop = trio.Event()
                    nursery.start_soon(asker.run, command, stop)
                case "stop":
                    stop.set()
        nursery.cancel_scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("publisher", "receiver", "asker"))
    parser.add_argument("address")
    arguments = parser.parse_args()
    trio.run(_asker if arguments.role == "asker" else _relay, arguments.address)


if __name__ == "__main__":
    main()
