"""Segments that were given to the app to be decrypted, and have not come back. Pure.

Their bytes are in the app's stream and in the channel's rows; here is only what finishes them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

__all__ = ["MAX_UNOPENED", "MAX_UNOPENED_BYTES", "Unopened", "UnopenedSegment"]

MAX_UNOPENED: Final = 10_000
MAX_UNOPENED_BYTES: Final = 64 << 20


class UnopenedSegment(NamedTuple):
    """One segment; `order` is the Lamport time of its message."""

    message_id: str
    sender_id: str
    order: int
    size: int


class Unopened:
    """Bounded: beyond `max_count` or `max_bytes` the longest waiting segments are given up."""

    def __init__(self, max_count: int = MAX_UNOPENED, max_bytes: int = MAX_UNOPENED_BYTES) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._segments: OrderedDict[str, UnopenedSegment] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._segments)

    def add(self, segment: UnopenedSegment) -> list[str]:
        """Wait for a segment; returns the ids of those that had to go for it."""
        self._segments[segment.message_id] = segment
        self.bytes += segment.size
        gone: list[str] = []
        while len(self._segments) > 1 and (
            len(self._segments) > self._max_count or self.bytes > self._max_bytes
        ):
            name, old = self._segments.popitem(last=False)
            self.bytes -= old.size
            gone.append(name)
        return gone

    def take(self, message_id: str) -> UnopenedSegment | None:
        """A segment came back; None: it is not waited for (any more)."""
        segment = self._segments.pop(message_id, None)
        if segment is not None:
            self.bytes -= segment.size
        return segment
