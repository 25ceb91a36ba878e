"""What a `MessagingClient` gives its app, in one order.

Events of the app's stream (`StreamEvent`) carry `stream_id` and `seq`: both together name an event for
ever, across restarts of everything. Delivery is at least once, so an app that crashed may see an event
again under the same name. `time_ns` is the Messaging API's clock at the moment the event was made.

Events about the connection to the Messaging API itself (`LinkLost`, `LinkRestored`) are made by the client
and have no seq.

Request ids are the 16 bytes that `MessagingClient.send` returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from ipc_schema.mapi.events import (
    ConnectionStatusChange,
    ContentTopicHealthChange,
    EventsDropped,
    MessageCancelled,
    MessageError,
    MessagePropagated,
    MessageSent,
    MessagesMissed,
    MessageUnconfirmed,
    TakenOver,
)

__all__ = [
    "ConnectionStatusChange",
    "ContentTopicHealthChange",
    "Event",
    "EventsDropped",
    "LinkLost",
    "LinkRestored",
    "MessageCancelled",
    "MessageError",
    "MessagePropagated",
    "MessageReceived",
    "MessageSent",
    "MessageUnconfirmed",
    "MessagesMissed",
    "StreamEvent",
    "TakenOver",
]


class MessageReceived(NamedTuple):
    """A message on a subscribed content topic. `timestamp` is its sender's, in ns since the Unix epoch."""

    stream_id: bytes
    seq: int
    time_ns: int
    content_topic: str
    payload: bytes
    message_hash: bytes
    timestamp: int
    meta: bytes
    ephemeral: bool
    version: int


class LinkLost(NamedTuple):
    """The Messaging API cannot be reached. The client goes on trying; nothing is lost yet for a named app."""

    reason: str


class LinkRestored(NamedTuple):
    """The Messaging API is back.

    `resumed`: the stream goes on after the last event. When it is False the Messaging API knew the stream
    no more (an ephemeral app's ends with its connection; a named one's with the database): events of stream
    `lost_stream` after `last_seq`, and the fate of sends still under way, are lost. `subscription_errors`:
    content topics that could not be subscribed again, and why.
    """

    resumed: bool
    lost_stream: bytes | None
    last_seq: int
    subscription_errors: Mapping[str, str]


StreamEvent: TypeAlias = (
    MessageReceived
    | MessagePropagated
    | MessageSent
    | MessageError
    | ConnectionStatusChange
    | ContentTopicHealthChange
    | EventsDropped
    | MessagesMissed
    | MessageUnconfirmed
    | MessageCancelled
)
Event: TypeAlias = StreamEvent | TakenOver | LinkLost | LinkRestored
