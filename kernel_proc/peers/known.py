"""The record of one known peer, and the grouping of addresses for limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from kernel_proc.ip_group import ip_group

__all__ = ["KnownPeer", "PeerOrigin", "group_of_address"]


class PeerOrigin(StrEnum):
    """How a peer was first heard of."""

    STATIC = "static"
    API = "api"
    DNS = "dns"
    DISCV5 = "discv5"
    PEER_EXCHANGE = "peer-exchange"
    PRUNE = "prune"
    """Offered by a relay peer that pruned us."""
    INBOUND = "inbound"
    CACHE = "cache"
    """From the file of an earlier run that did not say."""


def group_of_address(address: str) -> str:
    """Return what counts as one place for limits: see `ip_group`; a host name stands for itself."""
    parts = address.split("/", 3)
    host = parts[2] if len(parts) > 2 else address
    try:
        return ip_group(host)
    except ValueError:
        return host.lower()


@dataclass(slots=True)
class KnownPeer:
    """One peer. Times are instants of a SteadyClock, 0: never. `cluster` None: it has not said."""

    peer_id: str
    addresses: tuple[str, ...] = ()
    """Multiaddrs with the peer id, the one that worked last first."""
    origin: str = PeerOrigin.CACHE
    source: str = field(default="", compare=False)
    """The peer or list that reported it; not kept on disk."""
    protocols: tuple[str, ...] = ()
    capabilities: int = 0
    """The `waku2` bits of its record."""
    cluster: int | None = None
    shards: tuple[int, ...] = ()
    enr: bytes = field(default=b"", repr=False)
    seq: int = 0
    """Of the record."""
    learned: float = 0.0
    last_success: float = 0.0
    last_attempt: float = 0.0
    failures: int = 0
    """Dials in a row that failed while others succeeded."""
    retry_at: float = 0.0
    why: str = ""
    """What went wrong the last time, for people; not kept on disk."""
    group: str = ""
    """The place of its first address."""

    def is_due(self, now: float) -> bool:
        """Whether it may be dialled."""
        return bool(self.addresses) and now >= self.retry_at
