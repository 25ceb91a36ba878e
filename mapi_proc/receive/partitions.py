"""Detect partitions: a node with few mesh peers may be cut off, together with them, from the rest of the
network.

The kernel's coverage says whether a shard had a mesh peer at all. With few of them that proves little: two
nodes that lose the rest of the network stay covered by each other. Store peers show it: what a sender sees
as sent is what a store has, so a node connected to a store is not partitioned. Hence a time without a store
peer, in which the mesh was below D_low at any moment, counts as missed once a store peer is back. After our
own start, the time since the good moment counts as such a time, for nothing was observed in it.

A node whose mesh is full needs no store to be part of the network, and is not suspected.

Without any mesh peer, but with relay peers on the shard, a node is fed by gossip alone (IHAVE and IWANT).
That brings most messages but not reliably all: such a time is a suspicion too. Stores are queried when it
ends, and every minute while it lasts; apps are not notified. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mapi_proc.kernel_link.tracker import Missed

__all__ = ["LONGEST_NS", "Partitions"]

LONGEST_NS: Final = 30 * 60 * 1_000_000_000
"""Only the last half hour without stores counts: hashes are remembered for as long."""
REASON: Final = "no store peers, few mesh peers"
GOSSIP_ONLY: Final = "no mesh peers, gossip only"
_GOSSIP_SHORT_NS: Final = 5 * 1_000_000_000
"""Gossip repeats messages younger than this to new mesh peers (three heartbeats of history)."""
_GOSSIP_SPAN_NS: Final = 60 * 1_000_000_000


@dataclass(slots=True)
class _Absence:
    since: int
    weak: bool | None = None
    """Whether the mesh was below D_low in it; None if not known yet."""


class Partitions:
    """The suspicion per wanted shard. Times are ns of the steady clock."""

    def __init__(self, full_mesh: int) -> None:
        """`full_mesh`: mesh peers of a shard that make a node part of the network in any case (D_low)."""
        self._full_mesh = full_mesh
        self._absences: dict[int, _Absence] = {}
        self._gossip_since: dict[int, int] = {}
        self._stores = False

    def restarted(self, shard: int, good_ns: int) -> None:
        """Start from a shard's position on disk."""
        self._absences.setdefault(shard, _Absence(good_ns))

    def forget(self, shards: Iterable[int]) -> None:
        """Drop shards that no app wants any more."""
        for shard in shards:
            self._absences.pop(shard, None)
            self._gossip_since.pop(shard, None)

    def since(self, shard: int, now_ns: int) -> int | None:
        """Return since when messages of the shard may have been missed; None if they were not."""
        absence = self._absences.get(shard)
        moments = [] if absence is None or absence.weak is False else [absence.since]
        if shard in self._gossip_since:
            moments.append(self._gossip_since[shard])
        return max(min(moments), now_ns - LONGEST_NS) if moments else None

    def update(
        self,
        now_ns: int,
        stores: int,
        mesh: Mapping[int, int],
        wanted: Iterable[int],
        connected: Mapping[int, int] | None = None,
    ) -> list[tuple[int, Missed]]:
        """Take the kernel's counts: store peers, and per shard mesh peers and relay peers (`connected`).

        Return what to catch up.
        """
        missed = self._gossip(now_ns, mesh, connected or {}, wanted)
        if self._stores and not stores:
            for shard in wanted:
                self._absences.setdefault(shard, _Absence(now_ns))
        self._stores = stores > 0
        for shard, absence in self._absences.items():
            absence.weak = bool(absence.weak) or mesh.get(shard, 0) < self._full_mesh
        if not stores:
            return missed
        for shard, absence in self._absences.items():
            if absence.weak is not False:
                since = max(absence.since, now_ns - LONGEST_NS)
                missed.append((shard, Missed(min(since, now_ns), now_ns, REASON, suspected=True)))
        self._absences.clear()
        return missed

    def _gossip(
        self, now_ns: int, mesh: Mapping[int, int], connected: Mapping[int, int], wanted: Iterable[int]
    ) -> list[tuple[int, Missed]]:
        """Return the finished time spans in which shards were fed by gossip alone."""
        missed: list[tuple[int, Missed]] = []
        fed = {shard for shard in wanted if connected.get(shard, 0) and not mesh.get(shard, 0)}
        for shard, since in list(self._gossip_since.items()):
            if shard in fed and now_ns - since < _GOSSIP_SPAN_NS:
                continue
            del self._gossip_since[shard]
            if now_ns - since >= _GOSSIP_SHORT_NS:
                missed.append((shard, Missed(since, now_ns, GOSSIP_ONLY, suspected=True)))
        for shard in fed:
            self._gossip_since.setdefault(shard, now_ns)
        return missed
