"""The rate at which a rate-limited peer accepts requests. Pure: the clock is passed in.

A go-waku service serves one request per second and peer, an nwaku service a few; earlier ones get 429. That
says nothing against the peer, so we repeat the request more slowly. The gap is found by trial: it doubles
with each 429 and shrinks with each response.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

TOO_MANY_REQUESTS: Final = 429
FIRST_GAP: Final = 0.25
LONGEST_GAP: Final = 4.0
SHRINK: Final = 0.93
NO_GAP: Final = 0.05
"""Gap in seconds below which a peer is no longer paced."""
FORGET: Final = 600.0
"""Seconds without a 429 after which a peer is no longer paced."""
MAX_KEYS: Final = 1024

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True, eq=False)
class _Pace:
    gap: float = 0.0
    next: float = 0.0
    raised: float = float("-inf")


class Pacer(Generic[K]):
    """Request slots by key (a peer and service). Peers that never answered 429 are not paced."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._paces: dict[K, _Pace] = {}

    def __len__(self) -> int:
        return len(self._paces)

    def delay(self, key: K) -> float:
        """Return the seconds until a request may be made."""
        pace = self._paces.get(key)
        return 0.0 if pace is None else max(0.0, pace.next - self._clock())

    def reserve(self, key: K) -> float:
        """Reserve the next slot. Return the seconds until it starts."""
        pace = self._paces.get(key)
        if pace is None:
            return 0.0
        now = self._clock()
        if now >= pace.raised + FORGET:
            del self._paces[key]
            return 0.0
        start = max(now, pace.next)
        pace.next = start + pace.gap
        return start - now

    def refused(self, key: K) -> None:
        """Record a 429."""
        now = self._clock()
        pace = self._paces.pop(key, None) or _Pace()
        if now >= pace.raised + pace.gap:  # several 429s of concurrent requests count once
            pace.gap = min(LONGEST_GAP, max(FIRST_GAP, 2 * pace.gap))
            pace.raised = now
        pace.next = max(pace.next, now + pace.gap)
        self._paces[key] = pace
        if len(self._paces) > MAX_KEYS:
            del self._paces[next(iter(self._paces))]

    def served(self, key: K) -> None:
        """Record a successful request."""
        pace = self._paces.get(key)
        if pace is not None:
            pace.gap *= SHRINK
            if pace.gap < NO_GAP:
                del self._paces[key]
