"""A clock for persistent times: immune to steps of the wall clock, with a stamp to carry times across runs.

A host's wall clock may be off by an hour or a year and be corrected in either direction while the node runs.
Instants are therefore read from a monotonic clock, initialised from the wall clock to keep them readable; a
later run shifts the instants in a file by the time that really passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from ipc_schema.steady import Stamp, SteadyClock
from logos_process.host_clock import boot_id, boot_ns

_SECOND: Final = 10**9


class PeerClock:
    """Seconds since the Unix epoch according to the wall clock at process start, counted monotonically
    from there."""

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
        """Return the current instant."""
        return self._clock() / _SECOND

    def stamp(self) -> Stamp:
        """Return the stamp for a file that is being written."""
        return self._clock.stamp()

    def age(self, stamp: Stamp) -> float:
        """Return the seconds since a file was written; see `SteadyClock.age`."""
        return self._clock.age(stamp) / _SECOND

    def shift(self, stamp: Stamp) -> float:
        """Return the offset that converts instants in a file to instants of this clock."""
        return (self._clock() - self._clock.age(stamp) - stamp.label) / _SECOND
