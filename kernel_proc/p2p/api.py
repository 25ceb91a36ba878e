"""The interface of libp2p for the rest of the kernel: these types and nothing else.

Outside this room, peer ids are base58 text and addresses are multiaddr text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

PeerIdText = str


class P2pError(Exception):
    """Root of the host's errors. `retriable`: the same call may succeed later."""

    retriable = True


class DialError(P2pError):
    """The connection attempt failed (refused, timed out, handshake failed, wrong peer id)."""


class BadAddress(P2pError):
    """The multiaddr cannot be parsed, or not dialled by this host."""

    retriable = False


class NotConnected(P2pError):
    """There is no connection to the peer."""


class ProtocolNotSupported(P2pError):
    """The peer supports none of the requested protocols."""

    retriable = False


class StreamClosed(P2pError):
    """The stream ended (EOF, reset, write timeout, connection lost) before the operation completed."""


class Direction(StrEnum):
    INBOUND = "inbound"
    OUTBOUND = "outbound"


class EndCause(StrEnum):
    """Why a connection ended, for causes that decisions depend on. The accompanying text is for people."""

    OTHER = "other"
    HOST_STOPPED = "host-stopped"


@dataclass(frozen=True, slots=True)
class PeerConnection:
    """A live connection."""

    peer_id: PeerIdText
    address: str
    """The remote multiaddr as observed, without /p2p."""
    ip: str
    direction: Direction
    since: float
    """trio.current_time() at establishment."""

    @property
    def is_relayed(self) -> bool:
        """Whether it is a circuit: address and IP are those of the relay, not of the peer."""
        return "/p2p-circuit" in self.address


@dataclass(frozen=True, slots=True)
class HostPeer:
    """A verified signed peer record (libp2p RFC 0003): the addresses at which a peer says it can be
    reached."""

    peer_id: PeerIdText
    seq: int
    """Incremented with each change; comparable only between records of the same peer."""
    addresses: tuple[str, ...]
    """Multiaddrs as written by the peer, usually without its id; only those we can parse."""
    envelope: bytes = field(repr=False)
    """The signed envelope (libp2p RFC 0002) exactly as received, for forwarding."""


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """What a peer reported in identify."""

    peer_id: PeerIdText
    agent: str
    protocols: tuple[str, ...]
    listen_addresses: tuple[str, ...]
    observed_address: str | None
    record: HostPeer | None = None
    """None: it sent no record, or an invalid one."""


class Stream(Protocol):
    """A guarded libp2p stream. Raises only StreamClosed; a read after EOF returns b""."""

    @property
    def peer_id(self) -> PeerIdText: ...
    @property
    def protocol(self) -> str: ...
    async def read(self, max_bytes: int = 65536) -> bytes:
        """Read at least one byte, as soon as any is available; b"" at EOF."""

    async def consume(self, take: Callable[[bytes, int, int], bool]) -> bool:
        """Pass all bytes to `take(buffer, start, stop)` as they arrive, where the connection is read, which
        may be outside of any task: it must not block. Return True once `take` has returned False, and False
        at EOF. Raise also what `take` raises."""

    async def write(self, data: bytes) -> None:
        """Write all of `data`. Raise StreamClosed if the peer accepts nothing for the write timeout."""

    def write_now(self, data: bytes) -> bool:
        """Write all of `data` in this call, or nothing (False). An error shows in the next read or write."""

    async def close(self) -> None:
        """Close our side for writing. Never raise."""

    async def reset(self) -> None:
        """Reset the stream at once. Never raise."""


StreamHandler = Callable[[Stream], Awaitable[None]]


class HostEvents(Protocol):
    """Called synchronously from the host's tasks; must not block or raise. A subclass overrides what it
    needs, hence bodies that do nothing."""

    def peer_connected(self, connection: PeerConnection) -> None:  # noqa: ARG002
        return

    def peer_identified(self, identity: PeerIdentity) -> None:  # noqa: ARG002
        return

    def peer_disconnected(self, peer_id: PeerIdText, reason: str, cause: EndCause = EndCause.OTHER) -> None:  # noqa: ARG002
        """The last connection to this peer has ended."""
        return


class Host(Protocol):
    """The node's libp2p host."""

    @property
    def peer_id(self) -> PeerIdText: ...
    @property
    def listen_addresses(self) -> Sequence[str]:
        """Return the bound multiaddrs with actual ports and /p2p/<peer id>."""

    def add_listener(self, events: HostEvents) -> None: ...
    def set_stream_handler(self, protocol: str, handler: StreamHandler, *, max_per_peer: int = 8) -> None:
        """Advertise `protocol` in identify and serve it.

        A handler that raises only loses its stream (counted). If a peer exceeds `max_per_peer` concurrent
        streams, its oldest silent stream is cancelled and reset; if there is none, the new one is reset (both
        counted).
        """

    def remove_stream_handler(self, protocol: str) -> None: ...
    async def open_stream(
        self, peer_id: PeerIdText, protocols: Sequence[str], *, deadline: float = 10.0
    ) -> Stream:
        """Open a stream on the existing connection with the first protocol that the peer supports.

        Raise NotConnected, ProtocolNotSupported or StreamClosed.
        """

    async def connect(self, address: str, *, deadline: float = 10.0) -> PeerIdText:
        """Dial a multiaddr, with or without /p2p/<id>; return at once if connected. Raise BadAddress or
        DialError."""

    async def disconnect(self, peer_id: PeerIdText, reason: str) -> None:
        """Close all connections to the peer. No error if there are none."""

    def connections(self) -> Sequence[PeerConnection]: ...
    def is_connected(self, peer_id: PeerIdText) -> bool: ...
    def identity(self, peer_id: PeerIdText) -> PeerIdentity | None: ...
    def counters(self) -> dict[str, int]:
        """Return monotonic counters: accepted, refused_ip, refused_total, handshake_failed,
        handler_errors, streams_refused, write_timeouts, frozen_evicted, ..."""
