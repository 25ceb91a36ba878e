"""A peer that speaks the relay protocol by hand: it sends what a test wants and records what it gets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from kernel_proc.p2p.api import Stream, StreamClosed
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.varint import encode as encode_varint
from kernel_proc.relay.framing import FrameCutter
from kernel_proc.relay.params import RELAY_PROTOCOL
from kernel_proc.relay.rpc import Control, RawMessage, Rpc, Subscription
from kernel_proc.relay.rpc_reader import decode_rpc
from kernel_proc.relay.rpc_writer import encode_control, encode_message, encode_subscriptions
from tests.support.relay import LIMITS, LOOPBACK, TOPIC

LIMIT = 153_600


def frame(body: bytes) -> bytes:
    return encode_varint(len(body)) + body


class Target(Protocol):
    """What a raw peer connects to."""

    @property
    def address(self) -> str: ...
    @property
    def peer_id(self) -> str: ...


class RawPeer:
    """`heard` holds the RPCs of all streams the node opened to us, in order."""

    def __init__(self, host: Libp2pHost) -> None:
        self.host = host
        self.heard: list[Rpc] = []
        self.frame_sizes: list[int] = []
        self.inbound: list[Stream] = []
        self.reading = True
        self._out: Stream | None = None

    async def handle(self, stream: Stream) -> None:
        self.inbound.append(stream)
        cutter = FrameCutter(10_000_000)
        try:
            while True:
                while not self.reading:
                    await trio.sleep(0.01)
                chunk = await stream.read()
                if not chunk:
                    return
                frames = cutter.feed(chunk)
                self.frame_sizes += [stop - start for _, start, stop in frames]
                self.heard += [decode_rpc(*frame) for frame in frames]
        except StreamClosed:
            return

    @property
    def messages(self) -> list[RawMessage]:
        return [message for rpc in self.heard for message in rpc.messages]

    @property
    def subscriptions(self) -> list[Subscription]:
        return [subscription for rpc in self.heard for subscription in rpc.subscriptions]

    def control(self, name: str) -> list[object]:
        """All entries of one kind of control heard so far."""
        return [entry for rpc in self.heard if rpc.control for entry in getattr(rpc.control, name)]

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await trio.sleep(0.005)

    # -- sending ------------------------------------------------------------------------------------

    async def open(self, node: Target) -> None:
        """Connect, open our stream, subscribe."""
        await self.host.connect(node.address)
        await self.reopen(node)

    async def reopen(self, node: Target, *, subscribe: bool = True) -> None:
        self._out = await self.host.open_stream(node.peer_id, [RELAY_PROTOCOL])
        if subscribe:
            for data in encode_subscriptions([Subscription(True, TOPIC)], LIMIT):
                await self.send(data)

    async def send(self, data: bytes) -> None:
        assert self._out is not None
        await self._out.write(data)

    async def send_message(self, data: bytes, topic: str = TOPIC) -> None:
        await self.send(encode_message(topic.encode(), data))

    async def send_control(self, **fields: object) -> None:
        control = Control()
        for name, value in fields.items():
            setattr(control, name, value)
        for data in encode_control(control, LIMIT):
            await self.send(data)


@asynccontextmanager
async def raw_peer(key: NodeKey | None = None, *, agent: str = "another/1") -> AsyncIterator[RawPeer]:
    host = Libp2pHost(key=key or NodeKey.generate(), listen=[LOOPBACK], limits=LIMITS, agent=agent)
    async with host.run():
        peer = RawPeer(host)
        host.set_stream_handler(RELAY_PROTOCOL, peer.handle)
        yield peer
