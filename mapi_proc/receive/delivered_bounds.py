"""How much is kept of what named apps were given: bounded, though apps may be away for a month. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

__all__ = ["MAX_GIVEN", "GivenCount"]

MAX_GIVEN: Final = 4_000_000
"""Hashes kept for all apps together: some 130 MB on disk, more where messages come one at a time."""
_SLICE_NS: Final = 60 * 1_000_000_000
_SLICE: Final = MAX_GIVEN // 64


class GivenCount:
    """How many hashes the disk keeps, in slices of time: the oldest go when there are too many."""

    def __init__(self, loaded: Iterable[tuple[int, int]] = (), most: int = MAX_GIVEN) -> None:
        """`loaded`: `Snapshot.given`."""
        self._most = most
        self._slices: deque[list[int]] = deque([time, count] for time, count in loaded)
        self.total = sum(count for _, count in self._slices)

    def add(self, now: int, count: int) -> None:
        """So many more at this time (ns)."""
        self.total += count
        last = self._slices[-1] if self._slices else None
        if last is not None and now - last[0] < _SLICE_NS and last[1] < min(_SLICE, self._most // 4):
            last[1] += count
        else:
            self._slices.append([max(now, last[0]) if last is not None else now, count])

    def excess(self) -> int | None:
        """Those of before this time (ns) are to go; None: there is room."""
        before = None
        while self.total > self._most and len(self._slices) > 1:
            self.total -= self._slices.popleft()[1]
            before = self._slices[0][0]
        return before

    def forget(self, before: int) -> None:
        """What was given before this time (ns) is gone."""
        while self._slices and self._slices[0][0] < before:
            self.total -= self._slices.popleft()[1]
