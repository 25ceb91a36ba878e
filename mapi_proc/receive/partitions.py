"""Detect partitions: a node with few mesh peers may be cut off, together with them, from the rest of the
network.

The kernel's coverage says whether a shard had a mesh peer at all. With few of them that proves little: two
nodes that lose the rest of the network stay covered by each other. Store peers show it: what a sender sees
as sent is what a store has, so a node connected to every store that it knows is not partitioned. One of
several stores does not suffice: the network may have parted between them, and a sender on the other side
sees its message as sent by the other store. Hence a time without a store that was connected before, in
which the mesh was below D_low at any moment, counts as missed once that store is back, or, if none was
left, any store. After our own start, the time since the good moment counts as such a time, for nothing was
observed in it.

A node whose mesh is full needs no store to be part of the network, and is not suspected.

Without any mesh peer, but with relay peers on the shard, a node is fed by gossip alone (IHAVE and IWANT).
That brings most messages but not reliably all: such a time is a suspicion too. Stores are queried when it
ends, and every minute while it lasts; apps are not notified. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final

from mapi_proc.kernel_link.tracker import Missed

LONGEST_NS: Final = 30 * 60 * 1_000_000_000
"""Only the last half hour without stores counts: hashes are remembered for as long."""
REASON: Final = "a store was away, few mesh peers"
GOSSIP_ONLY: Final = "no mesh peers, gossip only"
_REMEMBERED_NS: Final = 60 * 60 * 1_000_000_000
"""How long a store that left is waited for."""
_MOST_AWAY: Final = 32
"""Most stores that are waited for: beyond it the one that left first is forgotten."""
_GOSSIP_SHORT_NS: Final = 5 * 1_000_000_000
"""Gossip repeats messages younger than this to new mesh peers (three heartbeats of history)."""
_GOSSIP_SPAN_NS: Final = 60 * 1_000_000_000


@dataclass(slots=True)
class _Absence:
    since: int
    weak: bool | None = None
    """Whether the mesh was below D_low in it; None if not known yet."""


@dataclass(slots=True)
class _Away:
    left_ns: int
    absences: dict[int, _Absence] = field(default_factory=dict)
    """By shard."""


class Partitions:
    """The suspicion per wanted shard. Times are ns of the steady clock."""

    def __init__(self, full_mesh: int) -> None:
        """`full_mesh`: mesh peers of a shard that make a node part of the network in any case (D_low)."""
        self._full_mesh = full_mesh
        self._absences: dict[int, _Absence] = {}
        """Of all stores, by shard."""
        self._away: dict[str, _Away] = {}
        """The stores that left, the first one first."""
        self._gossip_since: dict[int, int] = {}
        self._stores: frozenset[str] = frozenset()

    def restarted(self, shard: int, good_ns: int) -> None:
        """Start from a shard's position on disk."""
        self._absences.setdefault(shard, _Absence(good_ns))

    def remember(self, now_ns: int, stores: Iterable[str]) -> None:
        """Take the stores that the node was connected to before our own start and is not now."""
        for store in stores:
            if store not in self._stores:
                self._away.setdefault(store, _Away(now_ns))

    def forget(self, shards: Iterable[int]) -> None:
        """Drop shards that no app wants any more."""
        for shard in shards:
            self._absences.pop(shard, None)
            self._gossip_since.pop(shard, None)
            for away in self._away.values():
                away.absences.pop(shard, None)

    def since(self, shard: int, now_ns: int) -> int | None:
        """Return since when messages of the shard may have been missed; None if they were not."""
        moments = [absence.since for absence in self._of(shard) if absence.weak is not False]
        if shard in self._gossip_since:
            moments.append(self._gossip_since[shard])
        return max(min(moments), now_ns - LONGEST_NS) if moments else None

    def _of(self, shard: int) -> list[_Absence]:
        places = chain((self._absences,), (away.absences for away in self._away.values()))
        return [place[shard] for place in places if shard in place]

    def update(
        self,
        now_ns: int,
        stores: Collection[str],
        mesh: Mapping[int, int],
        wanted: Collection[int],
        connected: Mapping[int, int] | None = None,
    ) -> list[tuple[int, Missed]]:
        """Take what the kernel reports: the connected store peers by name, and per shard the counts of mesh
        peers and of relay peers (`connected`).

        Return what to catch up.
        """
        missed = self._gossip(now_ns, mesh, connected or {}, wanted)
        self._note_away(now_ns, frozenset(stores), wanted)
        for shard in wanted:
            for absence in self._of(shard):
                absence.weak = bool(absence.weak) or mesh.get(shard, 0) < self._full_mesh
        ended = [self._away.pop(store).absences for store in stores if store in self._away]
        if stores:
            ended.append(self._absences)
            self._absences = {}
        since: dict[int, int] = {}
        for absences in ended:
            for shard, absence in absences.items():
                if absence.weak is not False:
                    since[shard] = min(since.get(shard, now_ns), max(absence.since, now_ns - LONGEST_NS))
        return missed + [
            (shard, Missed(start, now_ns, REASON, suspected=True))
            for shard, start in since.items()
            if start < now_ns
        ]

    def _note_away(self, now_ns: int, stores: frozenset[str], wanted: Iterable[int]) -> None:
        if self._stores and not stores:
            for shard in wanted:
                self._absences.setdefault(shard, _Absence(now_ns))
        for store in sorted(self._stores - stores):
            self._away[store] = _Away(now_ns)
        self._stores = stores
        for store, away in list(self._away.items()):
            if now_ns - away.left_ns > _REMEMBERED_NS or len(self._away) > _MOST_AWAY:
                del self._away[store]
                continue
            for shard in wanted:
                if shard not in away.absences:
                    # Before our start, nothing was observed: the time since the good moment counts.
                    own = self._absences.get(shard)
                    away.absences[shard] = _Absence(now_ns) if own is None else replace(own)

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
