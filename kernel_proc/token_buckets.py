"""Bounded state: an LRU dictionary, and token buckets by key."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, TypeVar

ROUNDING: Final = 1e-9
"""Tolerance for rounding: without it, the sum of small refills would allow an event too late."""

K = TypeVar("K")
V = TypeVar("V")


class LruDict(Generic[K, V]):
    """A dictionary of at most `capacity` entries that evicts the least recently used one."""

    __slots__ = ("_capacity", "_entries")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
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
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def pop(self, key: K) -> V | None:
        """Remove and return an entry."""
        return self._entries.pop(key, None)

    def values(self) -> list[V]:
        """Return all values, least recently used first."""
        return list(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)


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
        """Return whether another event of `key` is allowed, and count it if so. `now` is in seconds and
        monotonic."""
        tokens = self._tokens(key, now)
        allowed = tokens >= 1 - ROUNDING
        self._buckets.put(key, (tokens - allowed, now))
        return allowed

    def has_room(self, key: K, now: float) -> bool:
        """Return what `allow` would, without counting."""
        return self._tokens(key, now) >= 1 - ROUNDING

    def _tokens(self, key: K, now: float) -> float:
        tokens, then = self._buckets.get(key) or (self._burst, now)
        return min(self._burst, tokens + max(0.0, now - then) * self._rate)

    def __len__(self) -> int:
        return len(self._buckets)
