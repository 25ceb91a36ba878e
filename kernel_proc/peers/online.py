"""Whether the network is there at all, without asking anybody in particular. Pure.

Peers prove it: a connection, a dial that succeeded, a datagram that came. No host outside is asked (others
resolve a well-known name), so no third party learns of us and a network of its own is as good as the
Internet.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["OnlineMonitor", "SleepDetector"]

GRACE: Final = 15.0
"""Seconds without any sign after which we take it that the trouble is ours."""
NOTICED_WITHIN: Final = 20.0
"""Seconds in which the host's keepalive sees that a connection is dead (14 s, and some for a busy loop):
until then dead connections look like signs of life."""
MAX_FAILURES: Final = 1024


class OnlineMonitor:
    """`sign` for each sign of life of the network, `failure` for each dial that failed meanwhile, and `look`
    now and then; then `online` is the verdict, and `excused` what it changes about the past.
    """

    def __init__(self, now: float) -> None:
        """A node that has just started has not heard anything yet, and that says nothing."""
        self._last_sign = now
        self._heard = False
        self._was_online = False
        self._failures: deque[tuple[float, str]] = deque(maxlen=MAX_FAILURES)

    def sign(self, now: float) -> None:
        """Something of the network answered."""
        self._last_sign = now
        self._heard = True

    def may_be_online(self, now: float, connected: int) -> bool:
        """Whether trying is worth while: nothing shows yet that the network is not there."""
        if connected:
            self.sign(now)
        return now - self._last_sign < GRACE

    def online(self, now: float, connected: int) -> bool:
        """Whether failures are to be taken for those of others."""
        return self.may_be_online(now, connected) and self._heard

    def failure(self, now: float, peer_id: str) -> None:
        """A failure was held against this peer."""
        self._failures.append((now, peer_id))

    def came_back(self, now: float, connected: int) -> bool:
        """True once after each change from offline to online."""
        before, self._was_online = self._was_online, self.online(now, connected)
        return self._was_online and not before

    def excused(self, now: float, connected: int) -> list[str]:
        """Once it shows that we are offline: the peers whose last failures, one entry for each, were ours
        after all, since the network was gone when they happened."""
        if self.may_be_online(now, connected):
            while self._failures and now - self._failures[0][0] > GRACE + NOTICED_WITHIN:
                self._failures.popleft()
            return []
        since = self._last_sign - NOTICED_WITHIN
        found = [peer_id for then, peer_id in self._failures if then >= since]
        self._failures.clear()
        return found


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
