"""Outcomes of an app's sends to channels, for those who ask later. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from logos_client.events import (
    ChannelDeliveryError,
    ChannelMessageDelivered,
    ChannelMessageError,
    ChannelMessageSent,
    Event,
)
from logos_gateway.apps.encoding import plain_event

_FATES: Final = ChannelMessageSent | ChannelMessageDelivered | ChannelMessageError | ChannelDeliveryError
_MAX_FATES: Final = 10_000


class ChannelFates:
    """The last event of each of the newest sends to channels."""

    def __init__(self) -> None:
        self._events: OrderedDict[tuple[str, bytes], Event] = OrderedDict()
        """By channel and request id."""

    def note(self, event: Event) -> None:
        """Keep the event if it is about a send to a channel."""
        if not isinstance(event, _FATES):
            return
        key = event.channel_id, event.request_id
        self._events[key] = event
        self._events.move_to_end(key)
        if len(self._events) > _MAX_FATES:
            self._events.popitem(last=False)

    def find(self, channel_id: str, request_id: bytes) -> dict[str, Any] | None:
        """Return the last event of a send; None if none was seen."""
        event = self._events.get((channel_id, request_id))
        return None if event is None else plain_event(event)
