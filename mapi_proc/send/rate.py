"""The app-side rate limit: a number of messages per epoch, in order of acceptance. Off unless configured.

Epochs are unix time divided by the period, as networks with rate limits count them (17/WAKU2-RLN-RELAY).
Pure.
"""

from __future__ import annotations

from ipc_schema.config.ratelimits import RateLimit


class RateLimiter:
    """Counts the messages admitted in the current epoch. `note` and `load` carry the count over a restart."""

    def __init__(self, limit: RateLimit | None) -> None:
        self._limit = limit
        self._epoch = -1
        self._used = 0

    @property
    def limited(self) -> bool:
        return self._limit is not None

    def admit(self, now: float) -> bool:
        """Take one message's slot in the epoch of `now` (unix seconds). Return False if it must wait."""
        if self._limit is None:
            return True
        epoch = int(now // self._limit.period)
        if epoch > self._epoch:
            self._epoch, self._used = epoch, 0
        elif epoch < self._epoch:
            # The clock was set back, now or before a restart: used slots stay used for one more epoch.
            self._epoch = epoch
        if self._used >= self._limit.volume:
            return False
        self._used += 1
        return True

    def next_epoch(self, now: float) -> float:
        """Return the seconds until the next epoch begins."""
        if self._limit is None:
            return 0.0
        return max(0.0, (int(now // self._limit.period) + 1) * self._limit.period - now)

    def note(self) -> bytes:
        """Return the count to store on disk."""
        return f"{self._epoch}:{self._used}:{self._limit.period if self._limit else 0}".encode()

    def load(self, note: bytes) -> None:
        """Restore from a note; one of another period, or one that cannot be read, is ignored."""
        try:
            epoch, used, period = note.decode().split(":")
            if self._limit is not None and float(period) == self._limit.period:
                self._epoch, self._used = int(epoch), int(used)
        except ValueError:
            pass
