"""How long a peer must not be grafted. Outlives connections: a redial does not end a back-off."""

from __future__ import annotations

__all__ = ["BackoffTable"]


class BackoffTable:
    """Ends of back-offs by (topic, peer), at most `max_entries`; above it the one noted first goes."""

    def __init__(self, max_entries: int) -> None:
        self._max = max_entries
        self._until: dict[tuple[str, str], float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def set(self, topic: str, peer: str, until: float) -> None:
        """Note a back-off; one that is already longer stays."""
        key = (topic, peer)
        until = max(until, self._until.pop(key, until))
        self._until[key] = until
        if len(self._until) > self._max:
            del self._until[next(iter(self._until))]

    def active(self, topic: str, peer: str, now: float, slack: float = 0.0) -> bool:
        until = self._until.get((topic, peer))
        return until is not None and now < until + slack

    def expire(self, now: float, slack: float) -> None:
        ended = [key for key, until in self._until.items() if until + slack <= now]
        for key in ended:
            del self._until[key]
