"""What an event of the Messaging API means for a send. Pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

from ipc_schema.mapi.methods import PendingReply
from logos_bridge.send_record import FINAL_FATES
from logos_client import Position
from logos_client.events import (
    Event,
    MessageCancelled,
    MessageError,
    MessagePropagated,
    MessageQueued,
    MessageSent,
    MessageUnconfirmed,
)

_NEWEST: Final = 20_000


class NewestOutcomes:
    """The final fates that came last, also of sends that were another bridge's at that time: they do not come
    again when a send is taken back."""

    def __init__(self, newest: int = _NEWEST) -> None:
        self._newest = newest
        self._fates: dict[bytes, tuple[str, str]] = {}

    def add(self, request_id: bytes, fate: str, reason: str) -> None:
        """Keep it if it is final."""
        if fate in FINAL_FATES:
            self._fates[request_id] = fate, reason
            if len(self._fates) > self._newest:
                del self._fates[next(iter(self._fates))]

    def get(self, request_id: bytes) -> tuple[str, str] | None:
        """Return fate and reason; None: they are not known."""
        return self._fates.get(request_id)


class Doubts:
    """Finds sends that are final at the Messaging API though no event said so.

    They are missing in two looks: at the first one, the event may be on its way.
    """

    def __init__(self) -> None:
        self._missing: set[bytes] = set()

    def look(self, asked: Mapping[bytes, int], pending: PendingReply) -> set[bytes]:
        """Return those that were missing before, too. `asked`: request ids, and when they were accepted."""
        known = {one.request_id for one in pending.sends}
        is_whole = pending.total <= len(pending.sends)  # otherwise the oldest are listed
        until = sys.maxsize if is_whole or not pending.sends else pending.sends[-1].accepted_ns
        missing = {one for one, accepted_ns in asked.items() if one not in known and accepted_ns < until}
        lost, self._missing = missing & self._missing, missing
        return lost


def position_of(event: Event) -> Position | None:
    """Return the event's place in the journal, if it has one."""
    stream_id, seq = getattr(event, "stream_id", None), getattr(event, "seq", None)
    return Position(stream_id, seq) if stream_id is not None and seq is not None else None


def outcome_of(event: Event) -> tuple[bytes, str, str] | None:
    """Return request id, fate and reason of an event about a send."""
    match event:
        case MessageQueued():
            return event.request_id, "queued", ""
        case MessagePropagated():
            return event.request_id, "propagated", ""
        case MessageSent():
            return event.request_id, "sent", ""
        case MessageUnconfirmed():
            return event.request_id, "unconfirmed", event.reason
        case MessageError():
            return event.request_id, "error", event.text
        case MessageCancelled():
            return event.request_id, "cancelled", ""
    return None
