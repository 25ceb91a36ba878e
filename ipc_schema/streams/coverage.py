"""Coverage: the time spans in which a node could receive a shard at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, TypeAlias

__all__ = ["MAX_INTERVALS", "CoverageLog", "Interval", "holes"]

MAX_INTERVALS: Final = 256
"""Most intervals remembered; the time before the oldest counts as not covered."""

Interval: TypeAlias = tuple[int, int | None]
"""(from ns, to ns); None: still open."""


def holes(intervals: Iterable[Interval], start: int, end: int) -> list[tuple[int, int]]:
    """Return the parts of `start`..`end` (ns, half open) that no interval covers, in order.

    `intervals` may come from elsewhere: they need not be sorted or disjoint, and empty ones are skipped. An
    open one covers everything from its start on.
    """
    found = []
    at = start
    for low, high in sorted(intervals, key=lambda interval: interval[0]):
        if at >= end or low >= end:
            break
        upper = end if high is None else min(high, end)
        if upper <= low:
            continue
        if low > at:
            found.append((at, low))
        at = max(at, upper)
    if at < end:
        found.append((at, end))
    return found


class CoverageLog:
    """The coverage of one stream: opened with the first peer that delivers it, closed with the last.

    Times are ns of a clock that is never set. (If it stepped back all the same, what was recorded beyond
    its new time is dropped at the next `open`.) Opening twice and closing twice are no-ops.
    """

    __slots__ = ("_intervals", "_opened")

    def __init__(self) -> None:
        self._intervals: deque[tuple[int, int]] = deque()
        self._opened: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether coverage is open now."""
        return self._opened is not None

    def open(self, now: int) -> bool:
        """Begin coverage. Return False if it was open."""
        if self._opened is not None:
            return False
        while self._intervals and self._intervals[-1][1] > now:
            low, _ = self._intervals.pop()
            if low < now:
                self._intervals.append((low, now))
        if len(self._intervals) == MAX_INTERVALS:
            self._intervals.popleft()
        self._opened = now
        return True

    def close(self, now: int) -> bool:
        """End coverage. Return False if it was closed.

        An interval that would end before it began is dropped.
        """
        if self._opened is None:
            return False
        if now > self._opened:
            self._intervals.append((self._opened, now))
        self._opened = None
        return True

    def intervals(self) -> tuple[Interval, ...]:
        """Return the remembered intervals, oldest first, as in `StreamState.coverage`."""
        closed: tuple[Interval, ...] = tuple(self._intervals)
        return closed if self._opened is None else (*closed, (self._opened, None))
