"""What an event of the Messaging API tells of a send. Pure."""

from __future__ import annotations

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

__all__ = ["outcome_of", "position_of"]


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
