"""Bound how many delivered hashes of named apps are kept, though apps may be away for a month. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

MAX_DELIVERED: Final = 4_000_000
"""Hashes kept for all apps together: about 130 MB on disk, more where messages arrive one at a time."""
_SLICE_NS: Final = 60 * 1_000_000_000
_SLICE: Final = MAX_DELIVERED // 64


class DeliveredCount:
    """Counts the hashes on disk in time slices; when there are too many, the oldest slices go."""

    def __init__(self, loaded: Iterable[tuple[int, int]] = (), most: int = MAX_DELIVERED) -> None:
        """Restore from `loaded`: `Snapshot.delivered`."""
        self._most = most
        self._slices: deque[list[int]] = deque([time, count] for time, count in loaded)
        self._latest = self._slices[-1][0] if self._slices else -(1 << 63)
        self.total = sum(count for _, count in self._slices)

    def add(self, now: int, count: int) -> None:
        """Count so many more at this time (ns)."""
        self.total += count
        last = self._slices[-1] if self._slices else None
        if last is not None and now - last[0] < _SLICE_NS and last[1] < min(_SLICE, self._most // 4):
            last[1] += count
        else:
            # Later than all before, also when the clock has gone back: the disk drops hashes by their time,
            # and a slice that began within the one before would leave a part of that there, uncounted.
            self._slices.append([max(now, self._latest + 1), count])
        self._latest = max(now, self._latest, self._slices[-1][0])

    def excess(self) -> int | None:
        """Return the time (ns) before which hashes must go; None if there is room."""
        before = None
        while self.total > self._most and len(self._slices) > 1:
            self.total -= self._slices.popleft()[1]
            before = self._slices[0][0]
        return before

    def forget(self, before: int) -> None:
        """Drop the count of what was delivered before this time (ns)."""
        while self._slices and self._slices[0][0] < before:
            self.total -= self._slices.popleft()[1]
