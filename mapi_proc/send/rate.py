"""The app-side rate limit: so many messages per epoch, in the order of acceptance. Off unless configured.

Epochs are those of the clock (unix time divided by the period), as networks with rate limits count them.
Pure.
"""

from __future__ import annotations

from ipc_schema.config.ratelimits import RateLimit

__all__ = ["RateLimiter"]


class RateLimiter:
    """Counts what was let through in the current epoch. `note` and `load` carry the count over a restart."""

    def __init__(self, limit: RateLimit | None) -> None:
        self._limit = limit
        self._epoch = -1
        self._used = 0

    @property
    def limited(self) -> bool:
        return self._limit is not None

    def admit(self, now: float) -> bool:
        """Take one message's place in the epoch of `now` (unix seconds). False: it must wait."""
        if self._limit is None:
            return True
        epoch = int(now // self._limit.period)
        if epoch > self._epoch:
            self._epoch, self._used = epoch, 0
        elif epoch < self._epoch:
            # The clock was set back, here or before a restart: what is used stays used for one more epoch.
            self._epoch = epoch
        if self._used >= self._limit.volume:
            return False
        self._used += 1
        return True

    def next_epoch(self, now: float) -> float:
        """Seconds until the next epoch begins."""
        if self._limit is None:
            return 0.0
        return max(0.0, (int(now // self._limit.period) + 1) * self._limit.period - now)

    def note(self) -> bytes:
        """What to keep on disk."""
        return f"{self._epoch}:{self._used}:{self._limit.period if self._limit else 0}".encode()

    def load(self, note: bytes) -> None:
        """Go on from a note; one of another period, or one that cannot be read, counts for nothing."""
        try:
            epoch, used, period = note.decode().split(":")
            if self._limit is not None and float(period) == self._limit.period:
                self._epoch, self._used = int(epoch), int(used)
        except ValueError:
            pass
