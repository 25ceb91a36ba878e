"""Whether the network is there at all, without asking anybody in particular. Pure.

Peers prove it: a connection, a dial that succeeded, a datagram that came. No host outside is asked (others
resolve a well-known name), so nothing is told to a third party and a network of its own is as good as the
Internet.
"""

from __future__ import annotations

from typing import Final

__all__ = ["OnlineMonitor", "SleepDetector"]

GRACE: Final = 15.0
"""Seconds without any sign after which we take it that the trouble is ours."""


class OnlineMonitor:
    """`sign` for each sign of life of the network, `online(now, connected)` for the verdict."""

    def __init__(self) -> None:
        self._last_sign: float | None = None
        self._was_online = False

    def sign(self, now: float) -> None:
        """Something of the network answered."""
        self._last_sign = now

    def online(self, now: float, connected: int) -> bool:
        """Whether failures are to be taken for those of others."""
        if connected:
            self._last_sign = now
        return self._last_sign is not None and now - self._last_sign < GRACE

    def came_back(self, now: float, connected: int) -> bool:
        """True once after each change from offline to online."""
        before, self._was_online = self._was_online, self.online(now, connected)
        return self._was_online and not before


class SleepDetector:
    """Sees that the machine was suspended: then every connection is stale, and waiting for each to time out
    costs half a minute in which nothing arrives.

    Fed with two clocks in seconds: one that goes on while the machine sleeps and one that does not. That the
    process was merely slow or stopped does not count: its peers are still there.
    """

    def __init__(self, at_least: float = 10.0) -> None:
        self._at_least = at_least
        self._difference: float | None = None

    def slept(self, with_sleep: float, without: float) -> float | None:
        """How long the machine slept since the last call, if long enough to matter."""
        difference = with_sleep - without
        before, self._difference = self._difference, difference
        if before is None or difference - before < self._at_least:
            return None
        return difference - before
