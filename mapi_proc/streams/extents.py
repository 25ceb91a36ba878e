"""Size and age of a journal without a record per event: runs of events, oldest first.

A run ends when it holds 1/64 of the byte limit or of the age limit. Events are dropped by whole runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from mapi_proc.database import JournalExtent

_GRAIN: Final = 64


class _Run:
    __slots__ = ("cost", "last", "newest", "oldest")

    def __init__(self, last: int, cost: int, oldest: int, newest: int) -> None:
        self.last = last
        self.cost = cost
        self.oldest = oldest
        self.newest = newest


class Extents:
    """The runs of one stream. `total` is the cost of all events in them, in bytes."""

    __slots__ = ("_age_grain", "_byte_grain", "_runs", "total")

    def __init__(self, max_bytes: int, max_age: int, loaded: Iterable[JournalExtent] = ()) -> None:
        self._byte_grain = max_bytes // _GRAIN
        self._age_grain = max_age // _GRAIN
        self._runs = deque(_Run(run.last, run.cost, run.newest, run.newest) for run in loaded)
        self.total = sum(run.cost for run in self._runs)

    def add(self, seq: int, cost: int, time: int) -> None:
        """Add an event behind the last one. A clock that was set back does not make a run younger."""
        self.total += cost
        if self._runs:
            run = self._runs[-1]
            if run.cost + cost <= self._byte_grain and time - run.oldest < self._age_grain:
                run.last = seq
                run.cost += cost
                run.newest = max(run.newest, time)
                return
        self._runs.append(_Run(seq, cost, time, time))

    def release(self, seq: int) -> None:
        """Forget runs that end at or before `seq`. A partly acknowledged run still counts in full."""
        while self._runs and self._runs[0].last <= seq:
            self.total -= self._runs.popleft().cost

    def shrink(self, max_bytes: int) -> tuple[int, int]:
        """Drop the oldest runs until the rest fits; the newest one stays.

        Return the last seq dropped (0: none) and the bytes freed.
        """
        last, freed = 0, 0
        while self.total > max_bytes and len(self._runs) > 1:
            run = self._runs.popleft()
            self.total -= run.cost
            last, freed = run.last, freed + run.cost
        return last, freed

    def expire(self, before: int) -> int:
        """Drop runs in which every event is older than `before`. Return the last seq dropped (0: none)."""
        last = 0
        while self._runs and self._runs[0].newest < before:
            run = self._runs.popleft()
            self.total -= run.cost
            last = run.last
        return last
