"""Detect whether the network is reachable, without probing any particular host. Pure.

Peers prove it: a connection, a successful dial, an incoming datagram. No external host is contacted (others
resolve a well-known name), so that no third party learns about us, and a private network is as good as the
Internet.
"""

from __future__ import annotations

from collections import deque
from typing import Final

GRACE: Final = 15.0
"""Seconds without a sign of life after which we assume that the problem is ours."""
NOTICED_WITHIN: Final = 20.0
"""Seconds in which the keepalive detects a dead connection (14 s, plus slack for a busy loop); until then
dead connections look like signs of life."""
MAX_FAILURES: Final = 1024


class OnlineMonitor:
    """Call `sign` for each sign of life of the network and `failure` for each failed dial.

    `online` is the verdict, and `excused` returns the failures it invalidates.
    """

    def __init__(self, now: float) -> None:
        """A freshly started node has heard nothing yet, which means nothing."""
        self._last_sign = now
        self._heard = False
        self._was_online = False
        self._failures: deque[tuple[float, str]] = deque(maxlen=MAX_FAILURES)

    def sign(self, now: float) -> None:
        """Record a sign of life."""
        self._last_sign = now
        self._heard = True

    def may_be_online(self, now: float, connected: int) -> bool:
        """Return whether dialling is worthwhile: nothing indicates yet that the network is unreachable."""
        if connected:
            self.sign(now)
        return now - self._last_sign < GRACE

    def online(self, now: float, connected: int) -> bool:
        """Return whether failures may be attributed to peers."""
        return self.may_be_online(now, connected) and self._heard

    def failure(self, now: float, peer_id: str) -> None:
        """Record that a failure was attributed to this peer."""
        self._failures.append((now, peer_id))

    def came_back(self, now: float, connected: int) -> bool:
        """Return True once after each transition from offline to online."""
        before, self._was_online = self._was_online, self.online(now, connected)
        return self._was_online and not before

    def excused(self, now: float, connected: int) -> list[str]:
        """Once we turn out to be offline, return the peers whose last failures (one entry each) were ours:
        the network was already unreachable when they happened."""
        if self.may_be_online(now, connected):
            while self._failures and now - self._failures[0][0] > GRACE + NOTICED_WITHIN:
                self._failures.popleft()
            return []
        since = self._last_sign - NOTICED_WITHIN
        found = [peer_id for then, peer_id in self._failures if then >= since]
        self._failures.clear()
        return found


class SleepDetector:
    """Detect that the machine was suspended: all connections are stale then, and waiting for each to time out
    would cost half a minute without messages.

    Compares two clocks, in seconds: one that advances during suspend and one that does not. A process that
    was merely slow or stopped does not count, because its peers are still there.
    """

    def __init__(self, at_least: float = 10.0) -> None:
        self._at_least = at_least
        self._difference: float | None = None

    def slept(self, with_sleep: float, without: float) -> float | None:
        """Return how long the machine was suspended since the last call, None if too short to matter."""
        difference = with_sleep - without
        before, self._difference = self._difference, difference
        if before is None or difference - before < self._at_least:
            return None
        return difference - before
