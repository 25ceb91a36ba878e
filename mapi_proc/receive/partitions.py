"""Islands: a node that keeps a few mesh peers may be cut off, together with them, from everybody else.

The kernel's coverage says whether a shard had a mesh peer at all. With few of them that is no proof: two
nodes that lose the rest of the network stay covered by each other. Such a time shows in the store peers: what
a sender hears as sent is what a store has, and whoever is connected to a store is on no island. So a time
without a store peer, in which the mesh was below D_low at any moment, counts as missed once a store peer is
back. After a start of ours the time since the good moment counts as such a time, for nobody watched.

A node whose mesh is full needs no store to be part of the network, and asks for nothing. Pure.
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


@dataclass(slots=True)
class _Absence:
    since: int
    weak: bool | None = None
    """Whether the mesh was below D_low in it; None: not known yet."""


class Islands:
    """Of all shards that somebody wants. Times are ns of the wall clock."""

    def __init__(self, full_mesh: int) -> None:
        """`full_mesh`: mesh peers of a shard that make a node part of the network in any case (D_low)."""
        self._full_mesh = full_mesh
        self._absences: dict[int, _Absence] = {}
        self._stores = False

    def restarted(self, shard: int, good_ns: int) -> None:
        """The shard is followed again from a position on disk."""
        self._absences.setdefault(shard, _Absence(good_ns))

    def forget(self, shards: Iterable[int]) -> None:
        """Nobody wants these shards any more."""
        for shard in shards:
            self._absences.pop(shard, None)

    def since(self, shard: int, now_ns: int) -> int | None:
        """Since when messages of the shard may have been missed; None: they were not."""
        absence = self._absences.get(shard)
        if absence is None or absence.weak is False:
            return None
        return max(absence.since, now_ns - LONGEST_NS)

    def update(
        self, now_ns: int, stores: int, mesh: Mapping[int, int], wanted: Iterable[int]
    ) -> list[tuple[int, Missed]]:
        """The kernel has told how many store peers and mesh peers there are. Returns what to catch up."""
        if self._stores and not stores:
            for shard in wanted:
                self._absences.setdefault(shard, _Absence(now_ns))
        self._stores = stores > 0
        for shard, absence in self._absences.items():
            absence.weak = bool(absence.weak) or mesh.get(shard, 0) < self._full_mesh
        if not stores:
            return []
        missed: list[tuple[int, Missed]] = []
        for shard in tuple(self._absences):
            since = self.since(shard, now_ns)
            if since is not None:
                missed.append((shard, Missed(min(since, now_ns), now_ns, REASON, suspected=True)))
        self._absences.clear()
        return missed
