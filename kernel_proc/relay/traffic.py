"""Bytes of messages by pubsub topic, for the metrics. Pure.

`gross` counts every copy that was received or queued for a peer, `net` each message once: the ratio of the
two is what the redundancy of the mesh costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

MAX_TOPICS: Final = 256
"""Topics with counters of their own; clients of the node choose which topics it joins."""
OTHER: Final = "other"


class TopicTraffic:
    """The bytes of one topic."""

    __slots__ = ("gross_in", "gross_out", "net_in", "net_out")

    def __init__(self) -> None:
        self.gross_in = 0
        self.net_in = 0
        self.gross_out = 0
        self.net_out = 0

    def sent(self, size: int, copies: int) -> None:
        """Count a message that was queued for so many peers."""
        self.gross_out += size * copies
        self.net_out += size


class TrafficBook:
    """The traffic of all topics since the start. A topic that was left keeps its counters."""

    def __init__(self) -> None:
        self._topics: dict[str, TopicTraffic] = {}

    def of(self, topic: str) -> TopicTraffic:
        """The counters of a topic, shared with others once there are too many."""
        found = self._topics.get(topic)
        if found is None:
            name = topic if len(self._topics) < MAX_TOPICS else OTHER
            found = self._topics.setdefault(name, TopicTraffic())
        return found

    def __iter__(self) -> Iterator[tuple[str, str, str, int]]:
        """(topic, `gross` or `net`, `in` or `out`, bytes)."""
        for topic, one in self._topics.items():
            yield topic, "gross", "in", one.gross_in
            yield topic, "net", "in", one.net_in
            yield topic, "gross", "out", one.gross_out
            yield topic, "net", "out", one.net_out
