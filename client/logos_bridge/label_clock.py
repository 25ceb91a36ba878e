"""The wall clock, by which positions and missing spans are labelled, and its steps.

A host's clock may be an hour wrong and be set right while the bridge runs, or while it is down. A label made
by the wrong clock would then name another time: a span that no store fills, a position in the future behind
which everything counts as read. So a step moves the labels that are kept. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ipc_schema.steady import Stamp, SteadyClock

_STEP_NS: Final = 1_000_000_000
UNKNOWN_NS: Final = 30 * 60 * 1_000_000_000
"""How long the bridge was down, if its host's clock does not show it: set back, and the host restarted."""


class LabelClock:
    """Call it for the current time in ns.

    `stepped(by)` moves the labels that are kept; it is called first when the clock was set.
    """

    def __init__(self, clock: SteadyClock, stepped: Callable[[int], None]) -> None:
        self._clock = clock
        self._stepped = stepped
        self._shift = clock.shift

    def __call__(self) -> int:
        shift = self._clock.shift  # read once, for it takes two clocks: this is called for each message
        step = self._shift - shift
        if abs(step) > _STEP_NS:
            self._shift = shift
            self._stepped(step)
        return self._clock() - shift

    def stamp(self) -> Stamp:
        """Return what to keep with labels, for `since`. Call it before the labels are taken."""
        self()
        return self._clock.stamp()

    def since(self, stamp: Stamp) -> int:
        """Return by how much to move labels that were kept with a stamp."""
        return self() - (self._clock.age(stamp) or UNKNOWN_NS) - stamp.wall
