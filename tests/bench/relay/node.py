"""One process of the relay bench: our relay on our host, as publisher or as receiver.

    python -m tests.bench.relay.node --role receiver|publisher

The commands and events are those of `tests/bench/js/relay_node.mjs`, the messages byte for byte those of
`messages.mjs`: both sides of the comparison are driven by the same code and send the same bytes. Host, relay,
scoring and validation stand as the kernel composes them: each message is decoded as a WakuMessage, and a
protected shard (another one) has its validator asked each time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from struct import Struct
from typing import Any, Final

import trio

from ipc_schema.message import WakuMessage, encode_message
from kernel_proc.__main__ import collect_less
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.relay.messages import RelayMessage
from kernel_proc.relay.params import RelayParams
from kernel_proc.relay.service import RelayService
from kernel_proc.relay.validation import SignedShard
from tests.bench.lines import commands, cpu_us, emit

TOPIC: Final = "/waku/2/rs/42/0"
PROTECTED_TOPIC: Final = "/waku/2/rs/42/1"
CONTENT_TOPIC: Final = "/bench/1/relay/proto"
TIMESTAMP_NS: Final = 1_700_000_000_000_000_000
MAX_MESSAGE: Final = 153_600
_NUMBER: Final = Struct(">Q")
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
    """A function (number) → encoded WakuMessage with a payload of `size` bytes."""
    payload = bytes(_NUMBER.size) + _filler(size - _NUMBER.size)
    encoded = encode_message(WakuMessage(payload, CONTENT_TOPIC, timestamp=TIMESTAMP_NS))
    at = encoded.index(payload)
    head, tail, pack = encoded[:at], encoded[at + _NUMBER.size :], _NUMBER.pack

    def make(number: int) -> bytes:
        return b"".join((head, pack(number), tail))

    return make


class _Receiver:
    """Counts the messages of a round and acknowledges them."""

    def __init__(self) -> None:
        self._acks: trio.SocketStream | None = None
        self._due = trio.Event()
        self._round = -1
        self._messages = self._ack_every = self._received = self._duplicates = 0
        self._seen = bytearray()
        self._first = self._last = 0
        self._cpu = self._used = 0.0
        self._told = True

    def expect(self, command: dict[str, Any]) -> None:
        self._round, self._messages = command["round"], command["messages"]
        self._ack_every = command["ackEvery"]
        self._seen = bytearray(self._messages)
        self._received = self._duplicates = 0
        self._told = False
        self._cpu = cpu_us()
        emit("expecting", round=self._round)

    def take(self, message: RelayMessage) -> None:
        number = _NUMBER.unpack_from(message.message.payload)[0]
        if number >> 32 != self._round:
            return
        index = number & _MASK
        if self._seen[index]:
            self._duplicates += 1
            return
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
        """Tell the publisher how many have arrived, for one connection."""
        stream.socket.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        while True:
            await self._due.wait()
            self._due = trio.Event()
            await stream.send_all(_ACK.pack(self._received))
            if self._received == self._messages and not self._told:
                self._told = True
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
        )


class _Publisher:
    """Publishes rounds, at most a window ahead of the receiver."""

    def __init__(self, relay: RelayService) -> None:
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

    async def publish(self, command: dict[str, Any]) -> None:
        number, messages, window = command["round"], command["messages"], command["window"]
        make, publish = message_maker(command["size"]), self._relay.publish
        self._acked = 0
        cpu, start = cpu_us(), time.monotonic_ns()
        for index in range(messages):
            if index - self._acked >= window:
                await self._until_acked(index - window + 1)
            result = await publish(TOPIC, make(number << 32 | index))
            if result.peers != 1:
                raise RuntimeError(f"message {index} went to {result.peers} peers")
        await self._until_acked(messages)
        emit("published", round=number, start_ns=start, end_ns=time.monotonic_ns(), cpu_us=cpu_us() - cpu)


async def _serve(role: str) -> None:
    receiver = _Receiver()
    changed = trio.Event()

    def on_change(_topics: frozenset[str]) -> None:
        nonlocal changed
        changed.set()
        changed = trio.Event()

    host = Libp2pHost(key=NodeKey.generate(), listen=["/ip4/127.0.0.1/tcp/0"])
    async with host.run(), trio.open_nursery() as nursery:
        relay = RelayService(
            host, RelayParams(max_rpc_size=MAX_MESSAGE), on_message=receiver.take, on_change=on_change
        )
        relay.add_validator(
            None, SignedShard(PROTECTED_TOPIC, NodeKey.generate().public_key_bytes, time.time_ns)
        )
        await nursery.start(relay.run)
        relay.subscribe(TOPIC)
        publisher = _Publisher(relay)
        ack_port = None
        if role == "receiver":
            listeners = await nursery.start(
                partial(trio.serve_tcp, receiver.acknowledge, 0, host="127.0.0.1")
            )
            ack_port = listeners[0].socket.getsockname()[1]
        emit("ready", role=role, peerId=host.peer_id, addresses=list(host.listen_addresses), ackPort=ack_port)
        async for command in commands():
            match command["cmd"]:
                case "connect":
                    peer = await host.connect(command["address"])
                    stream = await trio.open_tcp_stream("127.0.0.1", command["ackPort"])
                    stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
                    nursery.start_soon(publisher.read_acks, stream)
                    while peer not in relay.mesh_peers(TOPIC):
                        await changed.wait()
                    emit("connected")
                case "expect":
                    receiver.expect(command)
                case "publish":
                    await publisher.publish(command)
                case "stop":
                    break
        nursery.cancel_scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--role", choices=("receiver", "publisher"), required=True)
    role = parser.parse_args().role
    collect_less()  # as a kernel does
    trio.run(_serve, role)


if __name__ == "__main__":
    main()
