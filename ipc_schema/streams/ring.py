"""Replay rings: the latest events of each stream, all rings within one byte budget.

Every append is O(1) amortised, evictions included: the budget keeps one ticket per event of any ring, in
order of arrival, and evicts the oldest when it is exceeded.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from ipc_schema.errors import ErrorCode, IpcError

__all__ = [
    "EVENT_OVERHEAD",
    "MAX_REPLAY_BYTES",
    "MAX_REPLAY_EVENTS",
    "ReplayBatch",
    "ReplayRing",
    "RingBudget",
]

EVENT_OVERHEAD: Final = 192
"""Bytes that an event costs beyond its frames: two bytes objects, their tuple, slot and ticket (CPython)."""
MAX_REPLAY_BYTES: Final = 1_048_576
"""Most bytes of header and payload frames in one reply of `stream.replay`, except for a single event."""
MAX_REPLAY_EVENTS: Final = 2048
"""Most events in one reply: they are two blobs each."""

_Event = tuple[bytes, bytes]


class ReplayBatch(NamedTuple):
    """Events `after` + 1 … `last` as (header, payload); `complete`: the stream has no later one."""

    events: list[_Event]
    last: int
    complete: bool


class RingBudget:
    """The bytes that all rings may use together. `evicted` counts the events evicted for it."""

    __slots__ = ("_stale", "_tickets", "evicted", "limit", "used")

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"a budget of {limit} bytes")
        self.limit = limit
        self.used = 0
        self.evicted = 0
        self._tickets: deque[ReplayRing] = deque()
        self._stale = 0  # tickets of events that were cleared, all rings together

    def charge(self, ring: ReplayRing, cost: int) -> None:
        """For `ReplayRing.append`: add one event, evicting the oldest of all rings as needed."""
        self._tickets.append(ring)
        self.used += cost
        while self.used > self.limit:
            oldest = self._tickets.popleft()
            if oldest.stale:
                oldest.stale -= 1
                self._stale -= 1
            else:
                self.used -= oldest.evict()
                self.evicted += 1

    def refund(self, ring: ReplayRing, count: int, cost: int) -> None:
        """For `ReplayRing.clear`: void the ring's `count` oldest tickets."""
        self.used -= cost
        ring.stale += count
        self._stale += count
        # Without this, streams that come and go below the limit would accumulate tickets for ever.
        if self._stale > 64 and self._stale * 2 > len(self._tickets):
            self._drop_stale()

    def _drop_stale(self) -> None:
        kept: deque[ReplayRing] = deque()
        for ring in self._tickets:
            if ring.stale:
                ring.stale -= 1
            else:
                kept.append(ring)
        self._tickets = kept
        self._stale = 0


class ReplayRing:
    """The recorded events of one stream epoch, seq `first` … `last` without a hole."""

    __slots__ = ("_budget", "_cost", "_events", "_head", "last", "stale")

    def __init__(self, budget: RingBudget) -> None:
        self._budget = budget
        self._events: list[_Event | None] = []  # slots below _head have been evicted
        self._head = 0
        self._cost = 0
        self.stale = 0  # the budget's: tickets of ours whose events were cleared
        self.last = 0
        """The last seq recorded, whether it has been evicted or not."""

    def __len__(self) -> int:
        return len(self._events) - self._head

    @property
    def first(self) -> int:
        """The oldest seq held; `last` + 1 if the ring is empty."""
        return self.last + 1 - len(self)

    def append(self, seq: int, header: bytes, payload: bytes) -> None:
        """Record the next event, evicting the oldest of all rings when the budget is exceeded.

        An event larger than the whole budget is counted but not kept. Raises `ValueError` unless `seq` is
        `last` + 1.
        """
        if seq != self.last + 1:
            raise ValueError(f"seq {seq} does not follow {self.last}")
        self.last = seq
        self._events.append((header, payload))
        cost = len(header) + len(payload) + EVENT_OVERHEAD
        self._cost += cost
        self._budget.charge(self, cost)

    def clear(self, last: int = 0) -> None:
        """Drop everything: a new epoch begins behind `last`, or the stream ends."""
        count, cost = len(self), self._cost
        self._events = []
        self._head = 0
        self._cost = 0
        self.last = last
        self._budget.refund(self, count, cost)

    def read(
        self, after: int, max_bytes: int = MAX_REPLAY_BYTES, max_events: int = MAX_REPLAY_EVENTS
    ) -> ReplayBatch:
        """Return the events behind `after`: at least one if any exists, within both limits beyond it.

        Raises `IpcError`: `trimmed` (with `detail.first`) if the next one is gone, `bad_request` if `after`
        lies above `last`.
        """
        if after > self.last or after < 0:
            raise IpcError(ErrorCode.BAD_REQUEST, f"after {after} is outside 0..{self.last}")
        if after + 1 < self.first:
            raise IpcError(
                ErrorCode.TRIMMED,
                f"seq {after + 1} is gone, the oldest is {self.first}",
                detail={"first": self.first},
            )
        start = self._head + after + 1 - self.first
        events: list[_Event] = []
        size = 0
        for at in range(start, min(start + max(max_events, 1), len(self._events))):
            event = self._events[at]
            assert event is not None
            size += len(event[0]) + len(event[1])
            if events and size > max_bytes:
                break
            events.append(event)
        last = after + len(events)
        return ReplayBatch(events, last, last == self.last)

    def evict(self) -> int:
        """For `RingBudget`: drop the oldest event and return its cost."""
        event = self._events[self._head]
        assert event is not None
        self._events[self._head] = None
        self._head += 1
        # Half of the list is evicted: compacting costs no more than the evictions did.
        if self._head >= 64 and self._head * 2 >= len(self._events):
            del self._events[: self._head]
            self._head = 0
        cost = len(event[0]) + len(event[1]) + EVENT_OVERHEAD
        self._cost -= cost
        return cost
