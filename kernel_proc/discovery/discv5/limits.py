"""Bounded state: an LRU dictionary, and token buckets by key."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LruDict(Generic[K, V]):
    """A dictionary of at most `capacity` entries that evicts the least recently used one."""

    __slots__ = ("_entries", "capacity", "evicted")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.evicted = 0
        self._entries: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return the entry and mark it as most recently used."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Set an entry."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self.capacity:
            self._entries.popitem(last=False)
            self.evicted += 1

    def pop(self, key: K) -> V | None:
        """Remove and return an entry."""
        return self._entries.pop(key, None)

    def values(self) -> list[V]:
        """Return all values, least recently used first."""
        return list(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries


class TokenBuckets(Generic[K]):
    """Allow `rate` events per second and bursts of `burst`, for each of the last `capacity` keys.

    An attacker that evicts a key by using many others gains one burst, and pays more for it.
    """

    __slots__ = ("_buckets", "_burst", "_rate")

    def __init__(self, rate: float, burst: float, capacity: int) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: LruDict[K, tuple[float, float]] = LruDict(capacity)

    def allow(self, key: K, now: float) -> bool:
        """Return whether another event of `key` is allowed. `now` is in seconds and monotonic."""
        tokens, then = self._buckets.get(key) or (self._burst, now)
        tokens = min(self._burst, tokens + (now - then) * self._rate)
        allowed = tokens >= 1
        self._buckets.put(key, (tokens - allowed, now))
        return allowed

    def __len__(self) -> int:
        return len(self._buckets)
