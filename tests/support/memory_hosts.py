"""Hosts without sockets: streams are memory, peers are whatever handlers a test gives them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import trio
import trio.testing

from kernel_proc.p2p.api import (
    BadAddress,
    DialError,
    Direction,
    HostEvents,
    NotConnected,
    PeerConnection,
    PeerIdentity,
    PeerIdText,
    ProtocolNotSupported,
    StreamClosed,
    StreamHandler,
)

Pipe = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]


class MemoryStream:
    """One end of a stream; `peer_id` is the other's."""

    def __init__(
        self,
        pipe: Pipe,
        peer_id: PeerIdText,
        protocol: str,
    ) -> None:
        self._pipe = pipe
        self.peer_id = peer_id
        self.protocol = protocol
        self.other: MemoryStream | None = None
        self.was_reset = False
        self.written = 0

    async def read(self, max_bytes: int = 65536) -> bytes:
        if self.was_reset:
            raise StreamClosed("reset")
        try:
            data = bytes(await self._pipe.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamClosed("gone") from error
        if self.was_reset:
            raise StreamClosed("reset")
        return data

    async def consume(self, take: Callable[[bytes, int, int], bool]) -> bool:
        while data := await self.read():
            if not take(data, 0, len(data)):
                return True
        return False

    async def write(self, data: bytes) -> None:
        try:
            await self._pipe.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamClosed("gone") from error
        self.written += len(data)

    def write_now(self, data: bytes) -> bool:
        return False

    async def close(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._pipe.send_eof()

    async def reset(self) -> None:
        for end in (self, self.other):
            if end is not None:
                end.was_reset = True
        await self._pipe.aclose()


def stream_pair(left: PeerIdText, right: PeerIdText, protocol: str) -> tuple[MemoryStream, MemoryStream]:
    """The end that `left` holds and the end that `right` holds."""
    here, there = trio.testing.memory_stream_pair()
    one, two = MemoryStream(here, right, protocol), MemoryStream(there, left, protocol)
    one.other, two.other = two, one
    return one, two


class MemoryNetwork:
    """Hosts that reach each other by id; `dialable` maps multiaddrs to ids."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.hosts: dict[PeerIdText, MemoryHost] = {}
        self.dialable: dict[str, PeerIdText] = {}

    def host(self, peer_id: PeerIdText) -> MemoryHost:
        self.hosts[peer_id] = MemoryHost(self, peer_id)
        return self.hosts[peer_id]


class MemoryHost:
    """Connected to every other host of its network but those in `away`."""

    agent = "memory"
    listen_addresses: Sequence[str] = ()

    def __init__(self, network: MemoryNetwork, peer_id: PeerIdText) -> None:
        self._network = network
        self.peer_id = peer_id
        self.handlers: dict[str, StreamHandler] = {}
        self.away: set[PeerIdText] = set()
        self.dialled: list[str] = []
        self.opened: list[tuple[PeerIdText, str]] = []
        self.handler_errors: list[Exception] = []

    def add_listener(self, events: HostEvents) -> None:
        pass

    def set_stream_handler(self, protocol: str, handler: StreamHandler, *, max_per_peer: int = 8) -> None:
        self.handlers[protocol] = handler

    def remove_stream_handler(self, protocol: str) -> None:
        self.handlers.pop(protocol, None)

    async def open_stream(
        self, peer_id: PeerIdText, protocols: Sequence[str], *, deadline: float = 10.0
    ) -> MemoryStream:
        await trio.lowlevel.checkpoint()
        if not self.is_connected(peer_id):
            raise NotConnected(f"{peer_id} is not connected")
        far = self._network.hosts[peer_id]
        for protocol in protocols:
            handler = far.handlers.get(protocol)
            if handler is not None:
                self.opened.append((peer_id, protocol))
                ours, theirs = stream_pair(self.peer_id, peer_id, protocol)
                self._network.nursery.start_soon(far.serve, handler, theirs)
                return ours
        raise ProtocolNotSupported(f"{peer_id} speaks none of {protocols}")

    async def serve(self, handler: StreamHandler, stream: MemoryStream) -> None:
        try:
            await handler(stream)
        except StreamClosed:
            await stream.reset()
        except Exception as error:
            self.handler_errors.append(error)
            await stream.reset()
        else:
            await stream.close()

    async def connect(self, address: str, *, deadline: float = 10.0) -> PeerIdText:
        await trio.lowlevel.checkpoint()
        self.dialled.append(address)
        if not address.startswith("/"):
            raise BadAddress(address)
        peer_id = self._network.dialable.get(address)
        if peer_id is None:
            raise DialError(f"cannot dial {address}")
        self.away.discard(peer_id)
        return peer_id

    async def disconnect(self, peer_id: PeerIdText, reason: str) -> None:
        self.away.add(peer_id)

    def connections(self) -> list[PeerConnection]:
        return [
            PeerConnection(peer_id, "/ip4/127.0.0.1/tcp/1", "127.0.0.1", Direction.OUTBOUND, 0.0)
            for peer_id in self._network.hosts
            if peer_id != self.peer_id and peer_id not in self.away
        ]

    def is_connected(self, peer_id: PeerIdText) -> bool:
        return peer_id in self._network.hosts and peer_id not in self.away and peer_id != self.peer_id

    def identity(self, peer_id: PeerIdText) -> PeerIdentity | None:
        far = self._network.hosts.get(peer_id)
        return None if far is None else PeerIdentity(peer_id, "memory", tuple(far.handlers), (), None)

    def counters(self) -> dict[str, int]:
        return {"handler_errors": len(self.handler_errors)}


@asynccontextmanager
async def memory_network() -> AsyncIterator[MemoryNetwork]:
    """A network that ends with its block."""
    async with trio.open_nursery() as nursery:
        yield MemoryNetwork(nursery)
        nursery.cancel_scope.cancel()
