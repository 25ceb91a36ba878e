"""Limit how often a process is restarted. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

MAX_RESTARTS: Final = 5
RESTART_WINDOW: Final = 30.0


class RestartLimit:
    """Gives up after several restarts in a short time.

    A process that cannot run, for instance because of a broken installation, would otherwise burn a CPU for
    ever.
    """

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=MAX_RESTARTS)

    def add(self, now: float) -> None:
        self._times.append(now)

    def reached(self, now: float) -> bool:
        """Return whether one more restart is too many."""
        return len(self._times) == MAX_RESTARTS and now - self._times[0] <= RESTART_WINDOW
