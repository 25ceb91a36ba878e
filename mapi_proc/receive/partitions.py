"""Islands: a node that keeps a few mesh peers may be cut off, together with them, from everybody else.

The kernel's coverage says whether a shard had a mesh peer at all. With few of them that is no proof: two
nodes that lose the rest of the network stay covered by each other. Such a time shows in the store peers: what
a sender hears as sent is what a store has, and whoever is connected to a store is on no island. So a time
without a store peer, in which the mesh was below D_low at any moment, counts as missed once a store peer is
back. After a start of ours the time since the good moment counts as such a time, for nobody watched.

A node whose mesh is full needs no store to be part of the network, and asks for nothing.

Without any mesh peer, but with relay peers on the shard, a node is fed by gossip alone (IHAVE and IWANT).
That brings most messages, not surely all: such a time is a suspicion too. Stores are asked when it ends, and
each minute of it; apps are not notified. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mapi_proc.kernel_link.tracker import Missed

__all__ = ["LONGEST_NS", "Islands"]

LONGEST_NS: Final = 30 * 60 * 1_000_000_000
"""A time without stores counts for its last half hour only: the hashes of as much are remembered for it."""
REASON: Final = "no store peers, few mesh peers"
GOSSIP_ONLY: Final = "no mesh peers, gossip only"
_GOSSIP_SHORT_NS: Final = 5 * 1_000_000_000
"""Gossip repeats what is younger than this to mesh peers that are new (three heartbeats of history)."""
_GOSSIP_SPAN_NS: Final = 60 * 1_000_000_000


@dataclass(slots=True)
class _Absence:
    since: int
    weak: bool | None = None
    """Whether the mesh was below D_low in it; None: not known yet."""


class Islands:
    """Of all shards that somebody wants. Times are ns of the steady clock."""

    def __init__(self, full_mesh: int) -> None:
        """`full_mesh`: mesh peers of a shard that make a node part of the network in any case (D_low)."""
        self._full_mesh = full_mesh
        self._absences: dict[int, _Absence] = {}
        self._gossip_since: dict[int, int] = {}
        self._stores = False

    def restarted(self, shard: int, good_ns: int) -> None:
        """The shard is followed again from a position on disk."""
        self._absences.setdefault(shard, _Absence(good_ns))

    def forget(self, shards: Iterable[int]) -> None:
        """Nobody wants these shards any more."""
        for shard in shards:
            self._absences.pop(shard, None)
            self._gossip_since.pop(shard, None)

    def since(self, shard: int, now_ns: int) -> int | None:
        """Since when messages of the shard may have been missed; None: they were not."""
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
        """The kernel has told how many store peers there are, and how many mesh peers and relay peers
        (`connected`) each shard has. Returns what to catch up.
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
        """The times, over by now, in which shards were fed by gossip alone."""
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
