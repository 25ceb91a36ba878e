"""When an idle channel sends a sync message: content-less, with what we have and what we miss.

After content came, soon: it is the acknowledgement its sender waits for. Else at longer and longer intervals,
so that a silent channel costs next to nothing. When another participant's message says all that ours would,
ours waits.
"""

from __future__ import annotations

from random import Random

from mapi_proc.channels.sds.settings import SdsSettings

__all__ = ["SyncTimer"]


class SyncTimer:
    """See the module. `at` is None until there is something to say."""

    def __init__(self, settings: SdsSettings, random: Random) -> None:
        self._settings = settings
        self._random = random
        self._interval = settings.sync_min
        self._last = -settings.sync_gap
        self._owed: float | None = None
        self.at: float | None = None

    @property
    def earliest(self) -> float:
        """No sync message goes out before this time."""
        return self._last + self._settings.sync_gap

    def news(self, now: float) -> None:
        """Content was received."""
        self._interval = self._settings.sync_min
        if self._owed is None:
            self._owed = now
        soon = now + self._settings.sync_after_content * self._random.uniform(0.1, 1.0)
        self.at = soon if self.at is None else min(self.at, soon)

    def spoke(self, now: float) -> None:
        """We sent content, which says everything a sync message says."""
        self._interval = self._settings.sync_min
        self._last = now
        self._owed = None
        self.at = now + self._interval * self._random.uniform(0.5, 1.0)

    def said_by_another(self, now: float) -> None:
        """Another participant's message acknowledged everything ours would acknowledge."""
        later = now + self._interval * self._random.uniform(0.5, 1.0)
        if self._owed is not None:
            # A busy channel must not put it off for ever.
            later = min(later, self._owed + 2 * self._settings.sync_min)
        if self.at is not None:
            self.at = max(self.at, later)

    def sent(self, now: float) -> None:
        """A sync message of ours went out."""
        self._last = now
        self._owed = None
        self.at = now + self._interval * self._random.uniform(0.5, 1.0)
        self._interval = min(2 * self._interval, self._settings.sync_max)

    def due(self, now: float, requests_wait: bool) -> bool:
        """Whether to send one now. Requests for repair that have come due do not wait for its time."""
        if now < self.earliest:
            return False
        return requests_wait or (self.at is not None and self.at <= now)
