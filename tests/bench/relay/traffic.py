"""The messages of the relay bench, and what our node does with them: publish, count, acknowledge.

They are byte for byte those of `tests/bench/js/messages.mjs`, `tests/bench/go` and `tests/bench/rust`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

import trio

from ipc_schema.message import WakuMessage, encode_message
from kernel_proc.reactor import watching
from kernel_proc.relay.messages import PublishResult, RelayMessage
from kernel_proc.relay.service import RelayService
from tests.bench.lines import cpu_us, emit
from tests.bench.relay.ticks import ticks

TOPIC: Final = "/waku/2/rs/42/0"
CONTENT_TOPIC: Final = "/bench/1/relay/proto"
TIMESTAMP_NS: Final = 1_700_000_000_000_000_000
MAX_MESSAGE: Final = 153_600
_NUMBER: Final = Struct(">Q")
_ROUND_AND_INDEX: Final = Struct(">II")
"""The two halves of a number."""
_ACK: Final = Struct(">I")
_MASK: Final = 0xFFFF_FFFF


def _filler(length: int) -> bytes:
    """The low bytes of xorshift32, as messages.mjs has them."""
    state = 0x9E3779B9
    out = bytearray(length)
    for at in range(length):
        state ^= state << 13 & _MASK
        state ^= state >> 17
        state ^= state << 5 & _MASK
        out[at] = state & 0xFF
    return bytes(out)


def message_maker(size: int) -> Callable[[int], bytes]:
    """Return a function (number) → encoded WakuMessage with a payload of `size` bytes."""
    payload = bytes(_NUMBER.size) + _filler(size - _NUMBER.size)
    encoded = encode_message(WakuMessage(payload, CONTENT_TOPIC, timestamp=TIMESTAMP_NS))
    at = encoded.index(payload)
    head, tail, pack = encoded[:at], encoded[at + _NUMBER.size :], _NUMBER.pack

    def make(number: int) -> bytes:
        return b"".join((head, pack(number), tail))

    return make


class Receiver:
    """Counts the messages of a round and acknowledges them."""

    def __init__(self) -> None:
        self._due = trio.Event()
        self._round = -1
        self._messages = self._ack_every = self._received = self._duplicates = 0
        self._seen = bytearray()
        self._stamps: list[int] | None = None
        self._first = self._last = 0
        self._cpu = self._used = 0.0
        self._reported = True

    def expect(self, command: dict[str, Any]) -> None:
        """Start a round; with `stamps`, the time of each arrival is kept."""
        self._round, self._messages = command["round"], command["messages"]
        self._ack_every = command["ackEvery"]
        self._seen = bytearray(self._messages)
        self._stamps = [0] * self._messages if command.get("stamps") else None
        self._received = self._duplicates = 0
        self._reported = False
        self._cpu = cpu_us()
        emit("expecting", round=self._round)

    def take(self, message: RelayMessage) -> None:
        number, index = _ROUND_AND_INDEX.unpack_from(message.message.payload)
        if number != self._round:
            return
        if self._seen[index]:
            self._duplicates += 1
            return
        if self._stamps is not None:
            self._stamps[index] = time.monotonic_ns()
        self._seen[index] = 1
        self._received += 1
        if self._received == 1:
            self._first = time.monotonic_ns()
        if self._received == self._messages:
            self._last = time.monotonic_ns()
            self._used = cpu_us() - self._cpu
            self._due.set()
        elif self._received % self._ack_every == 0:
            self._due.set()

    async def acknowledge(self, stream: trio.SocketStream) -> None:
        """Report to the publisher how many have arrived, for one connection."""
        stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        while True:
            await self._due.wait()
            self._due = trio.Event()
            await stream.send_all(_ACK.pack(self._received))
            if self._received == self._messages and not self._reported:
                self._reported = True
                self._report()

    def _report(self) -> None:
        emit(
            "received",
            round=self._round,
            received=self._received,
            duplicates=self._duplicates,
            lost=self._messages - self._received,
            first_ns=self._first,
            last_ns=self._last,
            cpu_us=self._used,
            stamps=self._stamps,
        )


class Publisher:
    """Publishes rounds, at most a window ahead of the receiver, or at a rate."""

    def __init__(self, relay: RelayService) -> None:
        self.peers = 1
        """Peers that every message must be queued for."""
        self._relay = relay
        self._acked = 0
        self._moved = trio.Event()

    async def read_acks(self, stream: trio.SocketStream) -> None:
        rest = b""
        async for chunk in stream:
            rest += chunk
            whole = len(rest) - len(rest) % _ACK.size
            if whole:
                self._acked = _ACK.unpack_from(rest, whole - _ACK.size)[0]
                rest = rest[whole:]
                self._moved.set()

    async def _until_acked(self, count: int) -> None:
        while self._acked < count:
            self._moved = trio.Event()
            await self._moved.wait()

    async def _publish(self, data: bytes) -> None:
        self._check(await self._relay.publish(TOPIC, data))

    def _check(self, result: PublishResult) -> None:
        if result.peers != self.peers:
            raise RuntimeError(f"a message went to {result.peers} peers, not {self.peers}")

    async def publish(self, command: dict[str, Any]) -> None:
        """Publish as fast as the window allows."""
        number, messages, window = command["round"], command["messages"], command["window"]
        make, publish = message_maker(command["size"]), self._publish
        self._acked = 0
        cpu, start = cpu_us(), time.monotonic_ns()
        for index in range(messages):
            if index - self._acked >= window:
                await self._until_acked(index - window + 1)
            await publish(make(number << 32 | index))
        await self._until_acked(messages)
        emit("published", round=number, start_ns=start, end_ns=time.monotonic_ns(), cpu_us=cpu_us() - cpu)

    async def pace(self, command: dict[str, Any]) -> None:
        """Publish one message at a time, `rate` of them a second.

        As in a kernel, the clock calls when a descriptor is readable, or a task if others keep the loop busy.
        """
        number, messages, rate = command["round"], command["messages"], command["rate"]
        make = message_maker(command["size"])
        self._acked = 0
        stamps: list[int] = []
        cpu = cpu_us()

        def tick() -> None:
            if len(stamps) == messages or not timer.read():
                return
            data = make(number << 32 | len(stamps))
            stamps.append(time.monotonic_ns())
            result = self._relay.begin_publish(TOPIC, data)
            assert isinstance(result, PublishResult), "a queue is full"
            self._check(result)

        with ticks(rate) as timer, watching(timer.fileno(), tick):
            while len(stamps) < messages:
                await trio.lowlevel.wait_readable(timer)
                tick()
        await self._until_acked(messages)
        emit("paced", round=number, stamps=stamps, cpu_us=cpu_us() - cpu)
