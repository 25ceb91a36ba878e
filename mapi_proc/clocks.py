"""The clocks that are used: the wall clock for labels, a steady one for every decision about time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from ipc_schema.steady import Stamp, SteadyClock
from logos_process.host_clock import boot_id, boot_ns

__all__ = ["CLOCK_NOTE", "STEP_NS", "SYSTEM_CLOCKS", "Clocks", "WallClockSteps", "steady_clock"]

CLOCK_NOTE: Final = "clock"
"""The database's note that holds the steady clock's stamp."""

STEP_NS: Final = 5_000_000_000
"""What is less is drift, or a slow look."""


class Clocks(NamedTuple):
    """`now_ns`: the wall clock. `running`: seconds that never jump and stand still while the host sleeps.
    `boot_ns`: nanoseconds since the host was started, sleep included (where the system has such a clock);
    `boot` names that start."""

    now_ns: Callable[[], int]
    running: Callable[[], float]
    boot_ns: Callable[[], int]
    boot: str = ""


SYSTEM_CLOCKS: Final = Clocks(time.time_ns, time.monotonic, boot_ns, boot_id())


def steady_clock(clocks: Clocks, note: bytes | None) -> SteadyClock:
    """The clock of everything that is kept. `note`: the stamp of the last run."""
    return SteadyClock(clocks.now_ns, clocks.boot_ns, clocks.boot, Stamp.from_note(note))


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
