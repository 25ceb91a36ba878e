"""Leases: who keeps a shard's stream recorded (SPEC.md, "Streams")."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["LeaseTable"]


class LeaseTable:
    """Leases of (consumer, shard), each `ttl` long from its last renewal.

    Times are of one monotonic clock, in any unit that `ttl` shares. A shard is active while anyone holds a
    lease on it.
    """

    __slots__ = ("_counts", "_ends", "ttl")

    def __init__(self, ttl: float) -> None:
        if ttl <= 0:
            raise ValueError(f"a time to live of {ttl}")
        self.ttl = ttl
        # All leases last equally long, so the order of renewal is the order of expiry.
        self._ends: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._counts: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def acquire(self, consumer: str, shard: int, now: float) -> bool:
        """Take or renew a lease. True: the shard became active by it."""
        key = (consumer, shard)
        known = key in self._ends
        self._ends[key] = now + self.ttl
        if known:
            self._ends.move_to_end(key)
            return False
        count = self._counts.get(shard, 0)
        self._counts[shard] = count + 1
        return count == 0

    def release(self, consumer: str, shard: int) -> bool:
        """Give a lease up, if it is held. True: the shard became inactive by it."""
        if self._ends.pop((consumer, shard), None) is None:
            return False
        return self._uncount(shard)

    def release_all(self, consumer: str) -> list[int]:
        """Give up all leases of a consumer; the shards that became inactive."""
        return [shard for shard in self.held_by(consumer) if self.release(consumer, shard)]

    def expire(self, now: float) -> list[int]:
        """End what was not renewed in time; the shards that became inactive."""
        inactive = []
        while self._ends:
            key, end = next(iter(self._ends.items()))
            if end > now:
                break
            del self._ends[key]
            if self._uncount(key[1]):
                inactive.append(key[1])
        return inactive

    def next_expiry(self) -> float | None:
        """When the next lease ends if nobody renews it; None: there is none."""
        return next(iter(self._ends.values()), None)

    def is_held(self, consumer: str, shard: int) -> bool:
        """Whether the consumer has a lease on the shard."""
        return (consumer, shard) in self._ends

    def held_by(self, consumer: str) -> list[int]:
        """The shards of a consumer, in ascending order."""
        return sorted(shard for holder, shard in self._ends if holder == consumer)

    def active_shards(self) -> list[int]:
        """The shards with at least one lease, in ascending order."""
        return sorted(self._counts)

    def is_active(self, shard: int) -> bool:
        """Whether anyone holds a lease on the shard."""
        return shard in self._counts

    def _uncount(self, shard: int) -> bool:
        self._counts[shard] -= 1
        if self._counts[shard]:
            return False
        del self._counts[shard]
        return True
