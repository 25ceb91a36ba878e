"""The times of SDS-R: when to ask for a missing message, and when to answer such a request.

Both are drawn from hashes of the participant's and the message's id, so that few of many participants speak.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

from mapi_proc.channels.sds.settings import SdsSettings


class RepairTimes:
    """The delays of one participant, in seconds."""

    def __init__(self, settings: SdsSettings, own_id: str) -> None:
        self._settings = settings
        self._own_id = own_id

    def request_delay(self, message_id: str, requests: int) -> float:
        """Return T_req. Later requests for a message wait longer, up to T_max: the reference requests only
        once."""
        settings = self._settings
        span = max(1, int((settings.request_max - settings.request_min) * 1000))
        first = settings.request_min + _hash(self._own_id, message_id) % span / 1000
        return first if requests == 0 else min(first * 2 ** min(requests, 10), settings.request_max)

    def response_delay(self, message_id: str, sender_id: str) -> float:
        """Return T_resp: 0 for the message's sender, a delay for others, who are silent if another is
        first."""
        if sender_id == self._own_id:
            return 0.0
        limit = max(1, int(self._settings.request_max * 1000))
        distance = _hash(self._own_id) ^ _hash(sender_id)
        return (distance % limit) * (_hash(message_id) % limit) % limit / 1000

    def responsible(self, message_id: str, sender_id: str) -> bool:
        """Return whether we are in the message's response group."""
        if not self._own_id or not sender_id:
            return False
        groups = self._settings.response_groups
        return _hash(self._own_id, message_id) % groups == _hash(sender_id, message_id) % groups


def _hash(*parts: str) -> int:
    return int.from_bytes(sha256("".join(parts).encode()).digest()[:8], "big")


@dataclass(slots=True)
class Responses:
    """Messages that others requested: when to send them, and when they were sent last."""

    due: dict[str, float] = field(default_factory=dict)
    answered: dict[str, float] = field(default_factory=dict)

    def plan(self, message_id: str, at: float, now: float, gap: float, limit: int) -> None:
        """Note a request, unless the message went out just now or there are too many requests already."""
        last = self.answered.get(message_id)
        if last is not None and now - last < gap:
            return
        if message_id not in self.due and len(self.due) < limit:
            self.due[message_id] = at

    def seen(self, message_id: str) -> None:
        """Record that the message was on the wire: another participant answered."""
        self.due.pop(message_id, None)

    def take(self, now: float, gap: float) -> list[str]:
        """Return what to send now."""
        ready = [name for name, at in self.due.items() if at <= now]
        for name in ready:
            del self.due[name]
        self.answered = {name: at for name, at in self.answered.items() if now - at < gap}
        self.answered.update((name, now) for name in ready)
        return ready
