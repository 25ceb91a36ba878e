"""Leases: which consumers keep a shard's stream recorded (SPEC.md, "Streams")."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TypeVar

__all__ = ["LeaseTable"]

_Key = TypeVar("_Key", str, int)


class LeaseTable:
    """Leases of (consumer, shard), each `ttl` long from its last renewal.

    Times are of one monotonic clock, in any unit that `ttl` shares. A shard is active while anyone holds a
    lease on it.
    """

    __slots__ = ("_counts", "_ends", "_holders", "ttl")

    def __init__(self, ttl: float) -> None:
        if ttl <= 0:
            raise ValueError(f"a time to live of {ttl}")
        self.ttl = ttl
        # All leases last equally long, so insertion order is expiry order.
        self._ends: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._counts: Counter[int] = Counter()
        self._holders: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._ends)

    def acquire(self, consumer: str, shard: int, now: float) -> bool:
        """Acquire or renew a lease. Return True if the shard became active by it."""
        key = (consumer, shard)
        known = key in self._ends
        self._ends[key] = now + self.ttl
        if known:
            self._ends.move_to_end(key)
            return False
        self._holders[consumer] += 1
        self._counts[shard] += 1
        return self._counts[shard] == 1

    def release(self, consumer: str, shard: int) -> bool:
        """Release a lease if it is held. Return True if the shard became inactive by it."""
        if self._ends.pop((consumer, shard), None) is None:
            return False
        return self._uncount(consumer, shard)

    def expire(self, now: float) -> list[int]:
        """Drop leases that were not renewed in time. Return the shards that became inactive."""
        inactive = []
        while self._ends:
            key, end = next(iter(self._ends.items()))
            if end > now:
                break
            del self._ends[key]
            if self._uncount(*key):
                inactive.append(key[1])
        return inactive

    def is_held(self, consumer: str, shard: int) -> bool:
        return (consumer, shard) in self._ends

    def holds_any(self, consumer: str) -> bool:
        return consumer in self._holders

    def is_active(self, shard: int) -> bool:
        return shard in self._counts

    def _uncount(self, consumer: str, shard: int) -> bool:
        _take(self._holders, consumer)
        _take(self._counts, shard)
        return shard not in self._counts


def _take(counts: Counter[_Key], key: _Key) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
