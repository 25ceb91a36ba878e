"""The seen cache: two generations of message ids instead of a timer per id."""

from __future__ import annotations


class SeenCache:
    """Remember each id for at least `ttl` and at most `2 * ttl` seconds.

    An id is added only once a copy was *accepted* or published here. A rejected copy leaves no trace, so that
    a bad copy (such as one with a forbidden signature field) cannot keep the good one out. There is one cache
    per topic, because the same bytes may be valid on one topic and not on another.

    Holds at most `2 * max_ids` ids. A generation that fills up is rotated early and counted in `early_turns`.
    """

    __slots__ = ("_max_ids", "_old", "_ttl", "_turned", "_young", "early_turns")

    def __init__(self, ttl: float, max_ids: int, now: float) -> None:
        self._ttl = ttl
        self._max_ids = max_ids
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()
        self._turned = now
        self.early_turns = 0

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._young or message_id in self._old

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def add(self, message_id: bytes, now: float) -> None:
        if len(self._young) >= self._max_ids:
            self.early_turns += 1
            self._turn(now)
        self._young.add(message_id)

    def expire(self, now: float) -> None:
        """Rotate the generations when due. Call once per heartbeat."""
        passed = now - self._turned
        if passed >= 2 * self._ttl:
            self._old = set()
            self._young = set()
            self._turned = now
        elif passed >= self._ttl:
            self._turn(now)

    def _turn(self, now: float) -> None:
        self._old = self._young
        self._young = set()
        self._turned = now
