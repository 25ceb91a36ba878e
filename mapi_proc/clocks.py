"""The clocks in use: the wall clock for labels, a steady clock for every decision about time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from ipc_schema.steady import Stamp, SteadyClock
from logos_process.host_clock import boot_id, boot_ns

CLOCK_NOTE: Final = "clock"
"""The database's note that holds the steady clock's stamp."""

STEP_NS: Final = 5_000_000_000
"""What is less is drift, or a slow look."""


class Clocks(NamedTuple):
    """The clocks of one host.

    `now_ns` is the wall clock. `running` counts seconds, never jumps, and stops while the host is suspended.
    `boot_ns` counts nanoseconds since boot, suspend included (where the system has such a clock); `boot`
    identifies that boot.
    """

    now_ns: Callable[[], int]
    running: Callable[[], float]
    boot_ns: Callable[[], int]
    boot: str = ""


SYSTEM_CLOCKS: Final = Clocks(time.time_ns, time.monotonic, boot_ns, boot_id())


def steady_clock(clocks: Clocks, note: bytes | None) -> SteadyClock:
    """Build the steady clock that dates everything on disk. `note` is the stamp of the previous run."""
    return SteadyClock(clocks.now_ns, clocks.boot_ns, clocks.boot, Stamp.from_note(note))


class WallClockSteps:
    """Detects steps of the wall clock by comparing it with the host's boot clock."""

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self._offset = clocks.now_ns() - clocks.boot_ns()

    def look(self) -> int:
        """Return by how much the wall clock was stepped since the last call (ns, positive is forward); 0 if
        it was not."""
        offset = self._clocks.now_ns() - self._clocks.boot_ns()
        step = offset - self._offset
        if abs(step) < STEP_NS:
            return 0  # slow drift adds up until it is a step; being late by that does no harm
        self._offset = offset
        return step
