"""Outcomes of an app's sends, for those who ask later. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from logos_client.events import (
    ChannelDeliveryError,
    ChannelMessageDelivered,
    ChannelMessageError,
    ChannelMessageSent,
    Event,
    MessageCancelled,
    MessageError,
    MessagePropagated,
    MessageSent,
    MessageUnconfirmed,
)
from logos_gateway.apps.encoding import plain_event

_FATES: Final = MessagePropagated | MessageSent | MessageError | MessageUnconfirmed | MessageCancelled
_CHANNEL_FATES: Final = (
    ChannelMessageSent | ChannelMessageDelivered | ChannelMessageError | ChannelDeliveryError
)
_MAX_FATES: Final = 10_000


class SendFates:
    """The last event of each of the newest sends."""

    def __init__(self) -> None:
        self._events: OrderedDict[tuple[str, bytes], Event] = OrderedDict()
        """By channel, "" for none, and request id."""

    def note(self, event: Event) -> None:
        """Keep the event if it is about a send."""
        if isinstance(event, _FATES):
            key = "", event.request_id
        elif isinstance(event, _CHANNEL_FATES):
            key = event.channel_id, event.request_id
        else:
            return
        self._events[key] = event
        self._events.move_to_end(key)
        if len(self._events) > _MAX_FATES:
            self._events.popitem(last=False)

    def find(self, request_id: bytes, channel_id: str = "") -> dict[str, Any] | None:
        """Return the last event of a send, in a channel if one is named; None if none was seen."""
        event = self._events.get((channel_id, request_id))
        return None if event is None else plain_event(event)
