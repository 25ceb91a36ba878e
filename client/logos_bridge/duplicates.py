"""What may have been published before, beyond the time in which JetStream itself notices. Pure.

JetStream drops a message whose `Nats-Msg-Id` it stored within its duplicate window. A bridge that publishes
something old (it was down, slow, or reads from a store) may be later than that, while another bridge, or its
own earlier run, was in time. So for old messages the ids that the stream holds since then are read first.

What another bridge publishes after that reading is not among them; the window covers it for as long as the
reading is younger than half of the window, with the other half for messages in flight.
"""

from __future__ import annotations

from typing import Final

from logos_bridge.id_set import IdSet

SKEW_NS: Final = 30_000_000_000
"""Clocks of nodes and of NATS servers differ by less: beyond it, ids are looked for that much earlier."""


class DuplicateGuard:
    """Says when ids must be read, and which messages are known.

    `now` is a monotonic clock in seconds; the other times are wall-clock ns.
    """

    def __init__(self, window: float) -> None:
        self._fresh_ns = int(window * 1e9) // 2
        self._fresh = window / 2
        self._ids = IdSet()
        self._since_ns: int | None = None
        self._read_at = 0.0

    def __len__(self) -> int:
        return len(self._ids)

    def reading_needed(self, seen_ns: int, wall_ns: int, now: float) -> int | None:
        """Return the time since which ids must be read before a message seen at `seen_ns` is published.

        None: the window covers it, or what was read does.
        """
        if wall_ns - seen_ns < self._fresh_ns - SKEW_NS // 2:
            if self._ids and now - self._read_at >= self._fresh:
                self.forget()  # up to date again
            return None
        since = seen_ns - SKEW_NS
        if self._since_ns is not None and self._since_ns <= since and now - self._read_at < self._fresh:
            return None
        return since

    def read(self, ids: IdSet, since_ns: int, now: float) -> None:
        """Take what the stream holds since `since_ns`; `now`: when the reading began."""
        self._ids.close()
        self._ids = ids
        self._since_ns = since_ns
        self._read_at = now

    def known(self, message_id: str) -> bool:
        """Return whether the stream was seen to hold it."""
        return message_id in self._ids

    def forget(self) -> None:
        """Free what was read."""
        self._ids.close()
        self._ids = IdSet()
        self._since_ns = None
