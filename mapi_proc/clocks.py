"""The clocks that are used, and whether the wall clock was set."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

__all__ = ["STEP_NS", "SYSTEM_CLOCKS", "Clocks", "WallClockSteps"]

STEP_NS: Final = 5_000_000_000
"""What is less is drift, or a slow look."""


class Clocks(NamedTuple):
    """`now_ns`: the wall clock. `running`: seconds that never jump and stand still while the host sleeps.
    `boot_ns`: nanoseconds since the host was started, sleep included (where the system has such a clock)."""

    now_ns: Callable[[], int]
    running: Callable[[], float]
    boot_ns: Callable[[], int]


def _boot_ns() -> int:
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


SYSTEM_CLOCKS: Final = Clocks(time.time_ns, time.monotonic, _boot_ns)


class WallClockSteps:
    """Finds out that the wall clock was set: it has moved otherwise than the host's own time."""

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self._offset = clocks.now_ns() - clocks.boot_ns()

    def look(self) -> int:
        """By how much the clock was set since the last look (ns, forward > 0); 0: it was not."""
        offset = self._clocks.now_ns() - self._clocks.boot_ns()
        step = offset - self._offset
        if abs(step) < STEP_NS:
            return 0  # slow drift adds up until it is a step; being late by that does no harm
        self._offset = offset
        return step
