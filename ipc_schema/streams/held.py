"""Live events that a reader holds while earlier ones are replayed, without I/O (SPEC.md, "Streams").

A reader that dropped them would miss what comes before each answer: it would replay a busy stream for ever,
and receive each event twice.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

__all__ = ["HeldEvents"]

_OVERHEAD: Final = 512


class HeldEvents:
    """The newest run of events without a gap, within `max_bytes`: beyond it, it begins again."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._events: deque[tuple[Any, bytes]] = deque()
        self.bytes = 0
        """Approximate memory."""

    def add(self, event: Any, payload: bytes) -> int:
        """Hold an event of the stream. Return how many are dropped for it."""
        dropped = 0
        if self._events:
            last = self._events[-1][0]
            follows = (last.instance, last.epoch, last.seq + 1) == (event.instance, event.epoch, event.seq)
            if not follows or self.bytes >= self._max_bytes:
                dropped = self.clear()
        self._events.append((event, payload))
        self.bytes += len(payload) + _OVERHEAD
        return dropped

    def take(self, instance: bytes, epoch: bytes, last: int) -> list[tuple[Any, bytes]]:
        """Return those that follow `last` without a gap, and hold none any more. Empty: there are none."""
        if self._events:
            first = self._events[0][0]
            if (first.instance, first.epoch) != (instance, epoch) or first.seq > last + 1:
                return []
        found = [one for one in self._events if one[0].seq > last]
        if found:
            self.clear()
        return found

    def clear(self) -> int:
        """Drop all of them. Return how many."""
        dropped = len(self._events)
        self._events.clear()
        self.bytes = 0
        return dropped
