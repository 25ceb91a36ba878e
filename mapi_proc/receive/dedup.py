"""Remember which message hashes were seen: once per hash, O(1) per message, bounded, across restarts.

The hashes of a shard are kept in time slices, oldest first; whole slices are evicted, so eviction costs
next to nothing per message. Times are this host's clock, never the sender's timestamp: an old timestamp
would expire at once, a future one never.

A slice may be evicted once it is older than the retention **and** lies before the shard's horizon: the moment
before which no catch-up will ever ask again (the shard's good moment minus the overlap). A shard without a
horizon has only the retention. Only the bound on the count overrides this, because memory is finite: then the
oldest slice of all is evicted, and `evicted_early` counts its hashes: a catch-up may deliver these twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from mapi_proc.database import Batch, RememberedHashes

HASH_SIZE: Final = 32
SLICE_SPAN: Final = 10_000_000_000
"""Longest time span of a slice, in ns."""
SLICE_COUNT: Final = 2048
"""Most hashes in a slice: evicting one must not block the event loop."""
DEFAULT_RETENTION: Final = 7 * 60 * 1_000_000_000
DEFAULT_CAPACITY: Final = 1_000_000


class _Slice:
    __slots__ = ("first", "hashes", "last")

    def __init__(self, time: int) -> None:
        self.first = time
        self.last = time
        self.hashes: list[bytes] = []


class Dedup:
    """The memory of hashes. `known` is the set itself, for a test on the hot path; only `add` and `evict`
    change it.

    A hash costs about 150 bytes of memory. `persisted` hashes are those given to a batch; the others are lost
    with the process.
    """

    def __init__(
        self,
        *,
        retention: int = DEFAULT_RETENTION,
        capacity: int = DEFAULT_CAPACITY,
        loaded: Iterable[RememberedHashes] = (),
    ) -> None:
        """Restore from `loaded` (`Snapshot.hashes`). `retention` is in ns, `capacity` in hashes."""
        self.known: set[bytes] = set()
        self.retention = retention
        self.capacity = capacity
        self.evicted_early = 0
        """Hashes evicted for lack of room."""
        self._slices: dict[int, deque[_Slice]] = {}
        for shard, time, hashes in loaded:
            for start in range(0, len(hashes), HASH_SIZE):
                self.add(hashes[start : start + HASH_SIZE], shard, time)

    def __len__(self) -> int:
        return len(self.known)

    def add(self, message_hash: bytes, shard: int, now: int) -> bool:
        """Remember a hash. Return False if it is known: the message is a duplicate."""
        if message_hash in self.known:
            return False
        self.known.add(message_hash)
        slices = self._slices.get(shard)
        if slices is None:
            slices = self._slices[shard] = deque()
        if slices:
            current = slices[-1]
            # Within a shard time never runs backwards here, even if the clock was set back.
            if now - current.first < SLICE_SPAN and len(current.hashes) < SLICE_COUNT:
                current.hashes.append(message_hash)
                if now > current.last:
                    current.last = now
                return True
            now = max(now, current.last)
        fresh = _Slice(now)
        fresh.hashes.append(message_hash)
        slices.append(fresh)
        return True

    def evict(self, now: int, horizons: Mapping[int, int], batch: Batch | None = None) -> int:
        """Evict what may be forgotten. Return how many hashes. Call it every few seconds.

        `horizons`: for each shard with a catch-up, its good moment minus the overlap, in ns. The same is
        removed from the database through `batch`.
        """
        forgotten = 0
        for shard in list(self._slices):
            limit = now - self.retention
            horizon = horizons.get(shard)
            if horizon is not None:
                limit = min(limit, horizon)
            slices = self._slices[shard]
            if slices[-1].last > now:
                self._clamp(shard, now, batch)
            while slices and slices[0].last < limit:
                forgotten += self._forget_first(shard, batch)
        while len(self.known) > self.capacity:
            _, shard = min((slices[0].first, shard) for shard, slices in self._slices.items())
            count = self._forget_first(shard, batch)
            self.evicted_early += count
            forgotten += count
        return forgotten

    def _clamp(self, shard: int, now: int, batch: Batch | None) -> None:
        # The clock was set back: what lies in the future would stay until the clock gets there once more.
        for part in reversed(self._slices[shard]):
            if part.last <= now:
                break
            part.last = now
            part.first = min(part.first, now)
        if batch is not None:
            batch.clamp_hashes(shard, now)

    def _forget_first(self, shard: int, batch: Batch | None) -> int:
        slices = self._slices[shard]
        gone = slices.popleft()
        self.known.difference_update(gone.hashes)
        if batch is not None:
            batch.evict_hashes(shard, gone.last + 1)
        if not slices:
            del self._slices[shard]
        return len(gone.hashes)
