"""Time for what is kept about peers: `ipc_schema.steady` in seconds, and its stamp on a file.

A later run moves the instants it finds in a file by the time that has really passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from ipc_schema.steady import Stamp, SteadyClock
from logos_process.host_clock import boot_id, boot_ns

__all__ = ["PeerClock"]

_SECOND: Final = 10**9


class PeerClock:
    """Seconds since 1970 as the wall clock had it when the process started, counted on from there."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = lambda: boot_ns() / _SECOND,
        boot: str | None = None,
    ) -> None:
        self._clock = SteadyClock(
            lambda: round(wall() * _SECOND),
            lambda: round(steady() * _SECOND),
            boot_id() if boot is None else boot,
        )

    def __call__(self) -> float:
        """Return the present instant."""
        return self._clock() / _SECOND

    def stamp(self) -> Stamp:
        """Return the stamp for a file that is being written."""
        return self._clock.stamp()

    def age(self, stamp: Stamp) -> float:
        """Return the seconds since a file was written; see `SteadyClock.age`."""
        return self._clock.age(stamp) / _SECOND

    def shift(self, stamp: Stamp) -> float:
        """Return what to add to the instants in a file so that they are instants of this clock."""
        return (self._clock() - self._clock.age(stamp) - stamp.label) / _SECOND
