"""How many operations may wait for an answer of NATS at once.

A server that falls behind answers late, then not in time. If all that got no answer is repeated at once, the
repetitions are further load: it falls behind for good. So the number under way follows the answers, as TCP's
congestion window does (AIMD; slow start and congestion avoidance, RFC 5681): each answer widens it, a missing
one halves it.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Final

_FIRST: Final = 128
_SMALLEST: Final = 32
_RETRY: Final = 0.5
_RETRY_MAX: Final = 8.0


class CongestionWindow:
    """Operations enter, in order, and leave when they are answered or given up. All calls from one loop."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._width = float(min(_FIRST, largest))
        self._slow_start_until = float(largest)
        self._cuts = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.under_way = 0

    @property
    def width(self) -> int:
        """How many may be under way now."""
        return int(self._width)

    async def enter(self, *, ahead: bool = False) -> int:
        """Wait for a place, `ahead` of the others or behind them. Return the ticket for `leave`."""
        if self._waiting or self.under_way >= self.width:
            place = asyncio.get_running_loop().create_future()
            (self._waiting.appendleft if ahead else self._waiting.append)(place)
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():  # the place was given just now
                    self.under_way -= 1
                    self._admit()
                raise
        else:
            self.under_way += 1
        return self._cuts

    def leave(self, ticket: int, *, answered: bool) -> None:
        """Give the place back. Of all that were under way together, only the first failure narrows it."""
        self.under_way -= 1
        if answered:
            slow_start = self._width < self._slow_start_until
            self._width = min(self._largest, self._width + (1 if slow_start else 1 / self._width))
        elif ticket == self._cuts:
            self._cuts += 1
            self._width = self._slow_start_until = max(self._width / 2, _SMALLEST)
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.under_way < self.width:
            place = self._waiting.popleft()
            if not place.done():
                self.under_way += 1
                place.set_result(None)


def backoff(failures: int) -> float:
    """Return how many seconds to wait after so many failures in a row: random, lest all retry at once."""
    longest = _RETRY_MAX if failures > 5 else _RETRY * 2 ** (failures - 1)
    return longest * random.uniform(0.5, 1)  # noqa: S311
