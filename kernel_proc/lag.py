"""The event loop's lag: the one number that shows whether a single-threaded node keeps up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from math import exp
from typing import Final

import trio

from ipc_schema.kernel.records import EventLoopHealth
from kernel_proc.metrics import Sample
from logos_process.logs import fields

log = logging.getLogger(__name__)

CHECK_SECONDS: Final = 5.0
ACCEPTED_LAG: Final = 0.05
"""Seconds of lag that count as a load of 1."""
LAGGING_AFTER: Final = 5.0
"""Lag above which the node's state is EVENT_LOOP_LAGGING."""
_WINDOWS: Final = (60.0, 300.0, 900.0)
_NAMES: Final = ("1m", "5m", "15m")


class EventLoopLag:
    """Averages of the lags passed to `observe`; `run` measures trio's event loop."""

    def __init__(self) -> None:
        self._loads = [0.0, 0.0, 0.0]
        self.lag = 0.0
        """Seconds by which the last check was late."""
        self.accumulated = 0.0
        """Total seconds of lag since the start."""

    @property
    def lagging(self) -> bool:
        """Whether the last check was more than 5 s late."""
        return self.lag > LAGGING_AFTER

    def observe(self, lag: float) -> None:
        """Record the lag of one check in seconds; checks are 5 s apart."""
        self.lag = max(0.0, lag)
        self.accumulated += self.lag
        for index, window in enumerate(_WINDOWS):
            alpha = 1.0 - exp(-CHECK_SECONDS / window)
            self._loads[index] += alpha * (self.lag / ACCEPTED_LAG - self._loads[index])

    def report(self) -> EventLoopHealth:
        """Return the current averages. A load of 1 is the maximum acceptable in the long run."""
        one, five, fifteen = (round(load, 4) for load in self._loads)
        return EventLoopHealth(
            lag_ms=round(self.lag * 1000.0, 3), load_1m=one, load_5m=five, load_15m=fifteen
        )

    def samples(self) -> Iterable[Sample]:
        """Yield samples for the metrics registry."""
        for name, load in zip(_NAMES, self._loads, strict=True):
            yield "event_loop_load", {"window": name}, load
        yield "event_loop_accumulated_lag_secs", {}, self.accumulated

    async def run(self, changed: Callable[[], None] = lambda: None) -> None:
        """Measure the lag every 5 s; `changed` is called when `lagging` changes."""
        while True:
            before = self.lagging
            due = trio.current_time() + CHECK_SECONDS
            await trio.sleep_until(due)
            self.observe(trio.current_time() - due)
            if self.lagging != before:
                changed()
            if self.lagging:
                log.warning("event loop lagging", extra=fields(seconds=round(self.lag, 3)))
