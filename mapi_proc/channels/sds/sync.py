"""When an idle channel sends a sync message: content-less, with what we have and what we miss.

Soon after content arrives: the sync message is the acknowledgement that its sender waits for. Otherwise at
growing intervals, so that an idle channel costs next to nothing. If another participant's message says all
that ours would, ours is postponed.
"""

from __future__ import annotations

from random import Random

from mapi_proc.channels.sds.settings import SdsSettings


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
        """Earliest time of the next sync message."""
        return self._last + self._settings.sync_gap

    def news(self, now: float) -> None:
        """Schedule a sync message soon: content was received."""
        self._interval = self._settings.sync_min
        if self._owed is None:
            self._owed = now
        soon = now + self._settings.sync_after_content * self._random.uniform(0.1, 1.0)
        self.at = soon if self.at is None else min(self.at, soon)

    def spoke(self, now: float) -> None:
        """Postpone: we sent content, which carries everything that a sync message does."""
        self._interval = self._settings.sync_min
        self._last = now
        self._owed = None
        self.at = now + self._interval * self._random.uniform(0.5, 1.0)

    def said_by_another(self, now: float) -> None:
        """Postpone: another participant's message acknowledged everything that ours would."""
        later = now + self._interval * self._random.uniform(0.5, 1.0)
        if self._owed is not None:
            # A busy channel must not postpone it indefinitely.
            later = min(later, self._owed + 2 * self._settings.sync_min)
        if self.at is not None:
            self.at = max(self.at, later)

    def sent(self, now: float) -> None:
        """Record that we sent a sync message."""
        self._last = now
        self._owed = None
        self.at = now + self._interval * self._random.uniform(0.5, 1.0)
        self._interval = min(2 * self._interval, self._settings.sync_max)

    def due(self, now: float, requests_wait: bool) -> bool:
        """Return whether to send one now. Due repair requests do not wait for the schedule."""
        if now < self.earliest:
            return False
        return requests_wait or (self.at is not None and self.at <= now)
