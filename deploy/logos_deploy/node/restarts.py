"""How often a process that dies is started again. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["MAX_RESTARTS", "RESTART_WINDOW", "RestartLimit"]

MAX_RESTARTS: Final = 5
RESTART_WINDOW: Final = 30.0


class RestartLimit:
    """A process that cannot live, a broken installation say, would burn a processor for ever: after several
    restarts in a short time it is given up."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=MAX_RESTARTS)

    def add(self, now: float) -> None:
        """Count a restart."""
        self._times.append(now)

    def reached(self, now: float) -> bool:
        """Whether one more is one too many."""
        return len(self._times) == MAX_RESTARTS and now - self._times[0] <= RESTART_WINDOW
