"""What the rest of the kernel knows of libp2p: these types and nothing else.

Peer ids are their base58 text, addresses are multiaddr text, everywhere outside this room.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

PeerIdText = str


class P2pError(Exception):
    """Root of what the host raises. `retriable` says whether the same call may succeed later."""

    retriable = True


class DialError(P2pError):
    """No connection could be made (refused, timed out, handshake failed, wrong peer id)."""


class BadAddress(P2pError):
    """The multiaddr cannot be parsed or dialled by this host."""

    retriable = False


class NotConnected(P2pError):
    """There is no connection to that peer."""


class ProtocolNotSupported(P2pError):
    """The peer speaks none of the protocols asked for."""

    retriable = False


class StreamClosed(P2pError):
    """The stream ended (EOF, reset, write time-out, connection lost) before the operation was done."""


class Direction(StrEnum):
    INBOUND = "inbound"
    OUTBOUND = "outbound"


class EndCause(StrEnum):
    """Why a connection ended, as far as something is decided by it. The text beside it is for people."""

    OTHER = "other"
    HOST_STOPPED = "host-stopped"
    OTHER_NETWORK = "other-network"
    """The peer is of another cluster, or of none: it is of no use to us."""


@dataclass(frozen=True, slots=True)
class PeerConnection:
    """One live connection, as the host sees it."""

    peer_id: PeerIdText
    address: str
    """The remote's multiaddr as observed, without /p2p."""
    ip: str
    direction: Direction
    since: float
    """trio.current_time() when it was established."""


@dataclass(frozen=True, slots=True)
class HostPeer:
    """Where a peer says it is reached, with its signature (libp2p RFC 0003), which has been verified."""

    peer_id: PeerIdText
    seq: int
    """Grows with each change; comparable only between records of one peer."""
    addresses: tuple[str, ...]
    """Multiaddrs as the peer wrote them, mostly without its id; those we can read."""
    envelope: bytes = field(repr=False)
    """The signed form, byte for byte as it came: to hand it on."""


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """What a peer said of itself by identify."""

    peer_id: PeerIdText
    agent: str
    protocols: tuple[str, ...]
    listen_addresses: tuple[str, ...]
    observed_address: str | None
    record: HostPeer | None = None
    """None: it sent none, or none that holds."""


class Stream(Protocol):
    """A guarded libp2p stream. Errors are StreamClosed only; a read after EOF returns b""."""

    @property
    def peer_id(self) -> PeerIdText: ...
    @property
    def protocol(self) -> str: ...
    async def read(self, max_bytes: int = 65536) -> bytes:
        """At least one byte, as soon as any is there; b"" at EOF."""
        ...

    async def write(self, data: bytes) -> None:
        """Write all of `data`. Raises StreamClosed if the peer takes nothing for the write time-out."""
        ...

    async def close(self) -> None:
        """Close our side for writing, in good order; never raises."""
        ...

    async def reset(self) -> None:
        """Tear the stream down at once; never raises."""
        ...


StreamHandler = Callable[[Stream], Awaitable[None]]


class HostEvents(Protocol):
    """Called synchronously from the host's tasks; must not block or raise."""

    def peer_connected(self, connection: PeerConnection) -> None: ...
    def peer_identified(self, identity: PeerIdentity) -> None: ...
    def peer_disconnected(self, peer_id: PeerIdText, reason: str, cause: EndCause = EndCause.OTHER) -> None:
        """The last connection to this peer is gone."""
        ...


class Host(Protocol):
    """The node's libp2p host."""

    @property
    def peer_id(self) -> PeerIdText: ...
    @property
    def listen_addresses(self) -> Sequence[str]:
        """Bound multiaddrs with real ports and /p2p/<peer id>."""
        ...

    @property
    def agent(self) -> str: ...
    def add_listener(self, events: HostEvents) -> None: ...
    def set_stream_handler(self, protocol: str, handler: StreamHandler, *, max_per_peer: int = 8) -> None:
        """Advertise `protocol` in identify and serve it. A handler that raises costs its stream, nothing else
        (counted). Of more than `max_per_peer` streams at once from one peer, the oldest on which the peer has
        said nothing yet is cancelled and reset; if there is none, the new one is reset (both counted)."""
        ...

    def remove_stream_handler(self, protocol: str) -> None: ...
    async def open_stream(
        self, peer_id: PeerIdText, protocols: Sequence[str], *, deadline: float = 10.0
    ) -> Stream:
        """Open a stream on the existing connection; the first protocol the peer speaks wins.
        Raises NotConnected, ProtocolNotSupported, StreamClosed."""
        ...

    async def connect(self, address: str, *, deadline: float = 10.0) -> PeerIdText:
        """Dial a multiaddr with or without /p2p/<id>; at once if connected. Raises BadAddress, DialError."""
        ...

    async def disconnect(self, peer_id: PeerIdText, reason: str, cause: EndCause = EndCause.OTHER) -> None:
        """Close every connection to the peer; no error if there is none."""
        ...

    def connections(self) -> Sequence[PeerConnection]: ...
    def is_connected(self, peer_id: PeerIdText) -> bool: ...
    def identity(self, peer_id: PeerIdText) -> PeerIdentity | None: ...
    def counters(self) -> dict[str, int]:
        """Monotonic counters: accepted, refused_ip, refused_total, handshake_failed, handler_errors,
        streams_refused, write_timeouts, frozen_evicted, ..."""
        ...
