"""The events that a `MessagingClient` gives its app, in one order.

Events of the app's stream (`StreamEvent`) carry `stream_id` and `seq`, which together identify an event for
ever, across restarts of everything. Delivery is at least once, so an app that crashed may see an event
again under the same (stream id, seq). `time_ns` is the Messaging API's clock when the event was created.

Events about the connection to the Messaging API itself (`LinkLost`, `LinkRestored`) are created by the
client and have no seq.

Request ids are the 16 bytes returned by `MessagingClient.send`. Each class has a `kind`, a stable name;
`to_dict()` is an event for JSON and logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Any, Final, NamedTuple, TypeAlias, get_args

from ipc_schema.mapi import events as wire
from logos_client._event_form import EventForm

__all__ = [
    "ChannelDeliveryError",
    "ChannelMessageDelivered",
    "ChannelMessageError",
    "ChannelMessageLost",
    "ChannelMessageReceived",
    "ChannelMessageSent",
    "ChannelSegmentReceived",
    "ChannelSync",
    "ConnectionStatusChange",
    "ContentTopicHealthChange",
    "Event",
    "EventsDropped",
    "LinkLost",
    "LinkRestored",
    "MessageCancelled",
    "MessageError",
    "MessagePropagated",
    "MessageQueued",
    "MessageReceived",
    "MessageSent",
    "MessageUnconfirmed",
    "MessagesMissed",
    "StreamEvent",
    "TakenOver",
]


class _MessageReceived(NamedTuple):
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
    source: str = wire.LIVE


class MessageReceived(EventForm, _MessageReceived):
    """A message on a subscribed content topic. `timestamp` is its sender's, in ns since the Unix epoch.

    `source`: `live`, or `history` when it came from a store.
    """

    __slots__ = ()
    kind = "message_received"


class MessagePropagated(EventForm, wire.MessagePropagated):
    """A send of this app has reached at least one peer."""

    __slots__ = ()
    kind = "message_propagated"


class MessageSent(EventForm, wire.MessageSent):
    """A send of this app is confirmed by a store: its last event."""

    __slots__ = ()
    kind = "message_sent"


class MessageError(EventForm, wire.MessageError):
    """A send of this app has failed for good, for the reason in `text`: its last event.

    The hash is None if the message was never formed.
    """

    __slots__ = ()
    kind = "message_error"


class MessageUnconfirmed(EventForm, wire.MessageUnconfirmed):
    """A send of this app has reached peers, but no store confirmed it: its last event."""

    __slots__ = ()
    kind = "message_unconfirmed"


class MessageCancelled(EventForm, wire.MessageCancelled):
    """A send of this app was cancelled: its last event."""

    __slots__ = ()
    kind = "message_cancelled"


class ConnectionStatusChange(EventForm, wire.ConnectionStatusChange):
    """The node's connection to its network: `Disconnected`, `PartiallyConnected` or `Connected`, and why."""

    __slots__ = ()
    kind = "connection_status_change"


class ContentTopicHealthChange(EventForm, wire.ContentTopicHealthChange):
    """The health of a subscribed content topic; `health` is a `TopicHealth`."""

    __slots__ = ()
    kind = "content_topic_health_change"


class EventsDropped(EventForm, wire.EventsDropped):
    """The stream's bounds were exceeded: its events `first` to `last` are gone."""

    __slots__ = ()
    kind = "events_dropped"


class MessagesMissed(EventForm, wire.MessagesMissed):
    """Messages of these topics and this time span may be missing and could not be recovered."""

    __slots__ = ()
    kind = "messages_missed"


class MessageQueued(EventForm, wire.MessageQueued):
    """The node's rate limit holds a send of this app back until a later epoch. Once per send."""

    __slots__ = ()
    kind = "message_queued"


class _ChannelMessageReceived(NamedTuple):
    stream_id: bytes
    seq: int
    time_ns: int
    channel_id: str
    sender_id: str
    payload: bytes
    message_id: str
    lamport: int


class ChannelMessageReceived(EventForm, _ChannelMessageReceived):
    """A payload of another participant, whole and in causal order. `lamport` is logical, in ms."""

    __slots__ = ()
    kind = "channel_message_received"


class ChannelMessageSent(EventForm, wire.ChannelMessageSent):
    """All segments of a channel send are with the network."""

    __slots__ = ()
    kind = "channel_message_sent"


class ChannelMessageDelivered(EventForm, wire.ChannelMessageDelivered):
    """Participant `by` has the whole payload of a channel send: its last event."""

    __slots__ = ()
    kind = "channel_message_delivered"


class ChannelMessageError(EventForm, wire.ChannelMessageError):
    """A segment of a channel send never reached the network: its last event."""

    __slots__ = ()
    kind = "channel_message_error"


class ChannelDeliveryError(EventForm, wire.ChannelDeliveryError):
    """A channel send reached the network, but no participant acknowledged all of it: its last event."""

    __slots__ = ()
    kind = "channel_delivery_error"


class ChannelMessageLost(EventForm, wire.ChannelMessageLost):
    """Something was sent to the channel that the app does not get, or does not get in its place."""

    __slots__ = ()
    kind = "channel_message_lost"


class ChannelSync(EventForm, wire.ChannelSync):
    """Whether messages of the channel are known of and not here: `synced`, or `syncing` with `missing`."""

    __slots__ = ()
    kind = "channel_sync"


class _ChannelSegmentReceived(NamedTuple):
    stream_id: bytes
    seq: int
    time_ns: int
    channel_id: str
    sender_id: str
    payload: bytes
    message_id: str


class ChannelSegmentReceived(EventForm, _ChannelSegmentReceived):
    """An encrypted segment of a channel with hooks, for which the client has none: see
    `set_channel_encryption`. With hooks the client decrypts it and shows no event."""

    __slots__ = ()
    kind = "channel_segment_received"


class TakenOver(EventForm, wire.TakenOver):
    """Another connection has taken over the app's name: the last event here. It takes no seq."""

    __slots__ = ()
    kind = "taken_over"


class _LinkLost(NamedTuple):
    reason: str


class LinkLost(EventForm, _LinkLost):
    """The Messaging API is unreachable. The client keeps trying; a named app has lost nothing yet."""

    __slots__ = ()
    kind = "link_lost"


class _LinkRestored(NamedTuple):
    resumed: bool
    lost_stream: bytes | None
    last_seq: int
    subscription_errors: Mapping[str, str]


class LinkRestored(EventForm, _LinkRestored):
    """The Messaging API is back.

    `resumed`: the stream continues after the last event. If False, the Messaging API no longer knew the
    stream (an ephemeral app's ends with its connection, a named one's with the database): events of stream
    `lost_stream` after `last_seq`, and the outcome of pending sends, are lost. `subscription_errors`:
    content topics that could not be subscribed again, and why.
    """

    __slots__ = ()
    kind = "link_restored"


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
    | MessageQueued
    | ChannelMessageReceived
    | ChannelMessageSent
    | ChannelMessageDelivered
    | ChannelMessageError
    | ChannelDeliveryError
    | ChannelMessageLost
    | ChannelSync
    | ChannelSegmentReceived
)
Event: TypeAlias = StreamEvent | TakenOver | LinkLost | LinkRestored

_CLASSES: Final[tuple[type[Event], ...]] = get_args(Event)
#: Decoder's class → app's class. A message also gets its payload and is built elsewhere.
SHOWN: Final[Mapping[type[Any], type[Any]]] = {
    base: shown for shown in _CLASSES for base in shown.__bases__ if base.__module__ == wire.__name__
}


def event_classes(kind: object) -> tuple[type[Any], ...]:
    """Return the classes meant by one of them, or by a union of them such as `Event`.

    Raises TypeError for anything else, listing the valid names.
    """
    named = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if unknown := [one for one in named if one not in _CLASSES]:
        names = ", ".join(shown.__name__ for shown in _CLASSES)
        raise TypeError(f"{unknown[0]!r} is not a class of events; there are {names}, and Event for all")
    return tuple(named)
