"""GRAFT back-off per peer. Entries outlive the connection: reconnecting does not end a back-off."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class BackoffTable(Generic[K]):
    """Back-off deadlines by key. Holds at most `max_entries`; the oldest is evicted first."""

    def __init__(self, max_entries: int) -> None:
        self._max = max_entries
        self._until: dict[K, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def set(self, key: K, until: float) -> None:
        """Start a back-off. An existing one that ends later is kept."""
        until = max(until, self._until.pop(key, until))
        self._until[key] = until
        if len(self._until) > self._max:
            del self._until[next(iter(self._until))]

    def active(self, key: K, now: float, slack: float = 0.0) -> bool:
        """Return whether the back-off, extended by `slack` seconds, is still running."""
        until = self._until.get(key)
        return until is not None and now < until + slack

    def expire(self, now: float, slack: float = 0.0) -> None:
        """Remove the entries that have ended."""
        ended = [key for key, until in self._until.items() if until + slack <= now]
        for key in ended:
            del self._until[key]
