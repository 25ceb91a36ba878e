"""Hosts and hostile peers on loopback, and muxers over memory pipes, for the tests of the p2p room."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
import trio.testing

from kernel_proc.p2p import addresses, transport
from kernel_proc.p2p._libp2p import ID
from kernel_proc.p2p.api import EndCause, PeerConnection, PeerIdentity, PeerIdText, Stream
from kernel_proc.p2p.buffered import BufferedTransport, ByteStream
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.mplex import Mplex
from kernel_proc.p2p.multistream import select_one_of
from kernel_proc.p2p.muxer import Muxer
from kernel_proc.p2p.noise import NoiseSecurity, SecureChannel
from kernel_proc.p2p.scratch import Scratch
from kernel_proc.p2p.stream import MuxedStream
from kernel_proc.p2p.yamux import PROTOCOL as YAMUX
from kernel_proc.p2p.yamux import Yamux

TCP = "/ip4/127.0.0.1/tcp/0"
WS = "/ip4/127.0.0.1/tcp/0/ws"
KEYS = (NodeKey(bytes(31) + b"\1"), NodeKey(bytes(31) + b"\2"), NodeKey(bytes(31) + b"\3"))
ROOMY = HostLimits(max_per_ip=0, max_half_open_per_ip=0)


class Recorder:
    """A host listener that records events and wakes waiting tasks."""

    def __init__(self) -> None:
        self.log: list[tuple[str, PeerIdText]] = []
        self.reasons: list[str] = []
        self.causes: list[EndCause] = []
        self._changed = trio.Event()

    def _add(self, what: str, peer_id: PeerIdText) -> None:
        self.log.append((what, peer_id))
        self._changed.set()
        self._changed = trio.Event()

    def peer_connected(self, connection: PeerConnection) -> None:
        self._add("connected", connection.peer_id)

    def peer_identified(self, identity: PeerIdentity) -> None:
        self._add("identified", identity.peer_id)

    def peer_disconnected(self, peer_id: PeerIdText, reason: str, cause: EndCause = EndCause.OTHER) -> None:
        self.reasons.append(reason)
        self.causes.append(cause)
        self._add("disconnected", peer_id)

    async def wait_for(self, what: str, times: int = 1) -> None:
        while sum(1 for kind, _ in self.log if kind == what) < times:
            await self._changed.wait()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that has no event; the test's deadline bounds it."""
    while not condition():
        await trio.sleep(0.002)


async def echo(stream: Stream) -> None:
    while data := await stream.read():
        await stream.write(data)


@asynccontextmanager
async def host(
    key: NodeKey | None = None, listen: Sequence[str] = (TCP,), limits: HostLimits = ROOMY, **more: Any
) -> AsyncIterator[tuple[Libp2pHost, Recorder]]:
    """A running host with a recorder."""
    node = Libp2pHost(key=key or NodeKey.generate(), listen=listen, limits=limits, **more)
    events = Recorder()
    node.add_listener(events)
    async with node.run():
        yield node, events


@dataclass
class RawPeer:
    """A peer of a host that has done the handshake and now writes whatever it likes."""

    tcp: trio.SocketStream
    channel: SecureChannel
    pieces: list[bytes] = field(default_factory=list)

    async def send(self, *parts: bytes) -> None:
        """Plaintext into the encrypted channel."""
        await self.tcp.send_all(self.channel.seal(parts))

    async def receive(self) -> bytes:
        """The next plaintext piece, b"" at EOF or reset."""
        if not self.pieces:
            try:
                self.pieces = await self.channel.receive()
            except (trio.BrokenResourceError, OSError):
                return b""
        return self.pieces.pop(0) if self.pieces else b""

    async def until_closed(self) -> bytes:
        """Everything up to the end of the connection."""
        everything = b""
        while data := await self.receive():
            everything += data
        return everything


@asynccontextmanager
async def raw_peer(address: str, *, muxer: str = YAMUX, key: NodeKey | None = None) -> AsyncIterator[RawPeer]:
    """Connect to `address` as far as an agreed muxer, without a muxer of our own."""
    endpoint = addresses.parse(address)
    stream, tcp = await transport.dial(endpoint)
    async with tcp:
        buffered = BufferedTransport(stream)
        await select_one_of(buffered, ("/noise",))
        security = NoiseSecurity((key or NodeKey.generate()).libp2p_key_pair())
        channel = await security.handshake(buffered, initiator=True, expected=endpoint.peer_id)
        await select_one_of(channel, (muxer,))
        yield RawPeer(tcp, channel)


def channels(
    streams: tuple[ByteStream, ByteStream] | None = None,
    scratch: Scratch | None = None,
) -> tuple[SecureChannel, SecureChannel]:
    """Two ends of an encrypted channel, in memory unless `streams` are given; `scratch` is that of the
    first one's host."""
    left, right = streams or trio.testing.memory_stream_pair()
    ids = [ID.from_base58(key.peer_id) for key in KEYS]
    one, two = bytes([1] * 32), bytes([2] * 32)
    near, far = scratch or Scratch(), Scratch()
    return (
        SecureChannel(left, remote_peer=ids[1], send_key=one, receive_key=two, scratch=near),
        SecureChannel(right, remote_peer=ids[0], send_key=two, receive_key=one, scratch=far),
    )


@dataclass
class MuxedPair:
    """Two muxers that talk to each other."""

    left: Muxer
    right: Muxer
    accepted: trio.MemoryReceiveChannel[MuxedStream]
    counts: Counter[str]
    nursery: trio.Nursery


@asynccontextmanager
async def muxed_pair(
    kind: type[Yamux] | type[Mplex] = Yamux,
    limits: HostLimits = ROOMY,
    streams: tuple[ByteStream, ByteStream] | None = None,
) -> AsyncIterator[MuxedPair]:
    """Both ends run, in memory unless `streams` are given; streams that the left one opens come out of
    `accepted`."""
    counts: Counter[str] = Counter()

    def count(name: str) -> None:
        counts[name] += 1

    near, far = channels(streams)
    left = kind(near, outbound=True, limits=limits, count=count)
    right = kind(far, outbound=False, limits=limits, count=count)
    send, accepted = trio.open_memory_channel[MuxedStream](1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(left.run, lambda _stream: None)
        nursery.start_soon(right.run, send.send_nowait)
        yield MuxedPair(left, right, accepted, counts, nursery)
        left.end("test is over")
        right.end("test is over")
