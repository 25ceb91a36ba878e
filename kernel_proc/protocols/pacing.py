"""The pace at which a peer wants to be asked. Pure: time comes from a clock that is passed in.

A go-waku service serves one request a second and peer, and answers the next one 429. That says nothing
against the peer: it is asked again, more slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

__all__ = ["TOO_MANY_REQUESTS", "Pacer"]

TOO_MANY_REQUESTS: Final = 429
GAP: Final = 1.1
"""Seconds between two requests to a peer that has answered 429."""
FORGET: Final = 600.0
"""Seconds without another 429 after which a peer is asked as freely as others."""
MAX_KEYS: Final = 1024

K = TypeVar("K", bound=Hashable)


class _Pace:
    __slots__ = ("next", "until")

    def __init__(self) -> None:
        self.next = 0.0
        self.until = 0.0


class Pacer(Generic[K]):
    """Slots for requests, by whatever identifies a peer and its service. Peers that never answered 429 have
    no pace."""

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
        """Take the next slot; return the seconds until it comes."""
        pace = self._paces.get(key)
        if pace is None:
            return 0.0
        now = self._clock()
        if now >= pace.until:
            del self._paces[key]
            return 0.0
        start = max(now, pace.next)
        pace.next = start + GAP
        return start - now

    def refused(self, key: K) -> None:
        """Note that a request was answered 429."""
        now = self._clock()
        pace = self._paces.pop(key, None) or _Pace()
        pace.next = max(pace.next, now + GAP)
        pace.until = now + FORGET
        self._paces[key] = pace
        if len(self._paces) > MAX_KEYS:
            del self._paces[next(iter(self._paces))]
