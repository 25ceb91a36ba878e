"""The record of a known peer, and address groups for limits."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from kernel_proc.ip_group import ip_group


class PeerOrigin(StrEnum):
    """How a peer was first discovered."""

    STATIC = "static"
    API = "api"
    DNS = "dns"
    DISCV5 = "discv5"
    PEER_EXCHANGE = "peer-exchange"
    PRUNE = "prune"
    """Suggested in a PRUNE by a relay peer."""
    INBOUND = "inbound"
    CACHE = "cache"
    """From a file of an earlier version that did not record the origin."""


def group_of_address(address: str) -> str:
    """Return the address group for limits (see `ip_group`); a host name is its own group."""
    parts = address.split("/", 3)
    host = parts[2] if len(parts) > 2 else address
    try:
        return ip_group(host)
    except ValueError:
        return host.lower()


class PeerFacts(NamedTuple):
    """What the signed record (ENR) of a peer says; by default, there is none."""

    enr: bytes = b""
    seq: int = 0
    capabilities: int = 0
    cluster: int | None = None
    shards: Collection[int] = ()


UNSIGNED: Final = PeerFacts()


@dataclass(slots=True)
class KnownPeer:
    """A known peer. Times are instants of a SteadyClock, 0: never. `cluster` is None if unknown."""

    peer_id: str
    addresses: tuple[str, ...] = ()
    """Multiaddrs with peer id, the most recently successful first."""
    origin: str = PeerOrigin.CACHE
    source: str = field(default="", compare=False)
    """The peer or list that reported it; not persisted."""
    protocols: tuple[str, ...] = ()
    capabilities: int = 0
    """The `waku2` bits of its ENR."""
    cluster: int | None = None
    shards: tuple[int, ...] = ()
    enr: bytes = field(default=b"", repr=False)
    seq: int = 0
    """Sequence number of its ENR."""
    learned: float = 0.0
    last_success: float = 0.0
    last_attempt: float = 0.0
    failures: int = 0
    """Consecutive failed dials while others succeeded."""
    retry_at: float = 0.0
    why: str = ""
    """Human-readable reason of the last failure; not persisted."""
    group: str = ""
    """The address group of its first address."""

    def is_due(self, now: float) -> bool:
        """Return whether it may be dialled now."""
        return bool(self.addresses) and now >= self.retry_at
