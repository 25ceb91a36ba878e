"""The event queue of a simulation. What falls on one instant happens in the order in which it was queued."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class EventQueue:
    """Callbacks by time, in seconds from the start of the simulation."""

    def __init__(self) -> None:
        self.now = 0.0
        self.count = 0
        """Events so far."""
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0

    def at(self, time: float, callback: Callable[..., None], *args: Any) -> None:
        """Call back at a time, at once if it has passed."""
        self._order += 1
        heapq.heappush(self._heap, (max(time, self.now), self._order, callback, args))

    def after(self, delay: float, callback: Callable[..., None], *args: Any) -> None:
        """Call back after so many seconds."""
        self.at(self.now + delay, callback, *args)

    def run_until(self, end: float) -> None:
        """Run what is due until `end`, which is then the time."""
        heap = self._heap
        while heap and heap[0][0] <= end:
            self.now, _, callback, args = heapq.heappop(heap)
            self.count += 1
            callback(*args)
        self.now = end
