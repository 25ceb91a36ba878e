"""Bounded caches that clients of the reference's REST API poll; reading empties them. Pure.

The reference keeps the newest messages per topic (`rest-relay-cache-capacity`), 50 received messages and the
send events of 10,000 request ids for the messaging routes; what exceeds a bound is dropped, oldest first, and
counted here.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any, Final

MAX_TOPICS: Final = 4096
"""Most topics of one cache; clients must not make it grow without bound."""


class TopicCache:
    """The newest messages of each subscribed topic."""

    def __init__(self, capacity: int, *, max_bytes: int = 64 << 20) -> None:
        """`capacity`: messages per topic. `max_bytes`: payload bytes of all topics together."""
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._messages: OrderedDict[str, deque[tuple[Any, int]]] = OrderedDict()
        self._bytes = 0
        self.dropped = 0
        """Messages that were never read."""

    def __contains__(self, topic: object) -> bool:
        return topic in self._messages

    def __len__(self) -> int:
        """Messages held, of all topics."""
        return sum(map(len, self._messages.values()))

    @property
    def topics(self) -> list[str]:
        return list(self._messages)

    def subscribe(self, topic: str) -> bool:
        """Start keeping a topic. Return False if there are too many."""
        if topic not in self._messages and len(self._messages) >= MAX_TOPICS:
            return False
        self._messages.setdefault(topic, deque())
        return True

    def unsubscribe(self, topic: str) -> None:
        """Forget a topic and its messages."""
        for _, size in self._messages.pop(topic, ()):
            self._bytes -= size

    def clear(self) -> None:
        self._messages.clear()
        self._bytes = 0

    def add(self, topic: str, message: Any, size: int) -> None:
        """Keep a message of a subscribed topic; ignore others."""
        held = self._messages.get(topic)
        if held is None:
            return
        held.append((message, size))
        self._bytes += size
        if len(held) > self._capacity:
            self._drop(held)
        while self._bytes > self._max_bytes:
            self._drop(max(self._messages.values(), key=len))

    def _drop(self, held: deque[tuple[Any, int]]) -> None:
        self._bytes -= held.popleft()[1]
        self.dropped += 1

    def take(self, topic: str) -> list[Any] | None:
        """Remove and return the topic's messages, oldest first; None if it is not subscribed."""
        held = self._messages.get(topic)
        if held is None:
            return None
        taken = [message for message, _ in held]
        self._bytes -= sum(size for _, size in held)
        held.clear()
        return taken


class ReceivedCache:
    """The newest received messages of the messaging routes."""

    def __init__(self, capacity: int = 50) -> None:
        self._messages: deque[Any] = deque()
        self._capacity = capacity
        self.dropped = 0

    def add(self, message: Any) -> None:
        self._messages.append(message)
        if len(self._messages) > self._capacity:
            self._messages.popleft()
            self.dropped += 1

    def take(self) -> list[Any]:
        """Remove and return all messages, oldest first."""
        taken = list(self._messages)
        self._messages.clear()
        return taken


class SendEventCache:
    """Outcomes of sends, by request id, until they are read."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._events: OrderedDict[str, list[Any]] = OrderedDict()
        self._capacity = capacity
        self.dropped = 0

    def add(self, request_id: str, event: Any) -> None:
        self._events.setdefault(request_id, []).append(event)
        if len(self._events) > self._capacity:
            self._events.popitem(last=False)
            self.dropped += 1

    def take_all(self) -> Iterable[tuple[str, list[Any]]]:
        """Remove and return all request ids, oldest first, with their events."""
        taken, self._events = self._events, OrderedDict()
        return taken.items()

    def take(self, request_id: str) -> list[Any] | None:
        """Remove and return the events of one send; None if it has none."""
        return self._events.pop(request_id, None)
