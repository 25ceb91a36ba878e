"""Pending sends of a channel: their segments, and which participants have them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from mapi_proc.channels.events import (
    Delivered,
    DeliveryError,
    EndedRequest,
    SendError,
    Sent,
    StoredRequest,
)

_Final = Delivered | DeliveryError | SendError
_ENDS: Final[dict[type[_Final], str]] = {
    Delivered: "delivered",
    DeliveryError: "undelivered",
    SendError: "failed",
}


@dataclass(slots=True)
class _Request:
    stored: StoredRequest
    since: float
    unsent: set[str]
    acks: dict[str, int] = field(default_factory=dict)


class Requests:
    """Pending sends. `changed` collects rows to store; `ended` the segments whose tracking can stop."""

    def __init__(self, delivery_timeout: float) -> None:
        self._timeout = delivery_timeout
        self._pending: dict[bytes, _Request] = {}
        self._by_segment: dict[str, _Request] = {}
        self.changed: dict[bytes, StoredRequest | EndedRequest] = {}
        self.ended: list[str] = []

    def __contains__(self, request_id: bytes) -> bool:
        return request_id in self._pending

    def find(self, request_id: bytes) -> StoredRequest | None:
        """Return a pending send."""
        request = self._pending.get(request_id)
        return None if request is None else request.stored

    def __len__(self) -> int:
        return len(self._pending)

    def first(self, most: int) -> Iterable[StoredRequest]:
        """Return up to `most` of the pending sends."""
        return [request.stored for request in islice(self._pending.values(), most)]

    def add(self, stored: StoredRequest, now: float) -> None:
        """Start tracking a send."""
        self.restore(stored, now)
        self.changed[stored.request_id] = stored

    def restore(self, stored: StoredRequest, now: float) -> None:
        """Resume a stored send."""
        request = _Request(stored, now, set() if stored.sent else set(stored.segments))
        self._pending[stored.request_id] = request
        self._by_segment.update((name, request) for name in stored.segments)

    def ephemeral(self, segment: str) -> bool:
        """Return whether a segment belongs to an ephemeral send."""
        request = self._by_segment.get(segment)
        return request is not None and request.stored.ephemeral

    def confirmed(self, segment: str) -> list[Sent]:
        """Record that a segment reached the network."""
        request = self._by_segment.get(segment)
        if request is None or request.stored.sent:
            return []
        request.unsent.discard(segment)
        return [] if request.unsent else [self._sent(request)]

    def acknowledged(self, segment: str, by: str) -> list[Sent | _Final]:
        """Record that a participant has a segment; called once per pair."""
        request = self._by_segment.get(segment)
        if request is None:
            return []
        count = request.acks[by] = request.acks.get(by, 0) + 1
        if count < request.stored.needed:
            return []
        events: list[Sent | _Final] = [] if request.stored.sent else [self._sent(request)]
        return [*events, self._end(request, Delivered(request.stored.request_id, by))]

    def gave_up(self, segment: str) -> list[_Final]:
        """Record that a segment's last attempt failed."""
        request = self._by_segment.get(segment)
        if request is None:
            return []
        name = request.stored.request_id
        if segment in request.unsent:
            return [self._end(request, SendError(name, "one or more segments failed"))]
        return [self._end(request, DeliveryError(name, "no participant acknowledged it"))]

    def sweep(self, now: float) -> list[_Final]:
        """End sends that were acknowledged in parts only and make no progress. What could not be sent yet
        waits for the network without limit."""
        old = []
        for request in self._pending.values():
            if request.unsent:
                request.since = now
            elif now - request.since >= self._timeout:
                old.append(request)
        error = "no participant acknowledged all of it"
        return [self._end(request, DeliveryError(request.stored.request_id, error)) for request in old]

    def segments(self) -> Iterable[str]:
        return self._by_segment.keys()

    def _sent(self, request: _Request) -> Sent:
        request.stored = request.stored._replace(sent=True)
        request.unsent.clear()
        self.changed[request.stored.request_id] = request.stored
        return Sent(request.stored.request_id)

    def _end(self, request: _Request, event: _Final) -> _Final:
        stored = request.stored
        name = stored.request_id
        del self._pending[name]
        for segment in stored.segments:
            del self._by_segment[segment]
        self.ended += stored.segments
        detail = event.by if isinstance(event, Delivered) else event.error
        self.changed[name] = EndedRequest(stored.fingerprint, stored.sent, _ENDS[type(event)], detail)
        return event
