"""Events of an app's stream (SPEC.md, "The app's stream"); `event_codec` encodes and decodes them."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final, NamedTuple, TypeAlias

from ipc_schema.body import Bin16, Bin32, Ns, Range, Size, Uint
from ipc_schema.fields import MAX_TEXT
from ipc_schema.message import MAX_META_SIZE

__all__ = [
    "HISTORY",
    "LIVE",
    "MAX_APP_EVENT_HEADER",
    "AppEvent",
    "AppEventHead",
    "AppEventKind",
    "AppHeartbeat",
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
    "EventsDropped",
    "MessageCancelled",
    "MessageError",
    "MessagePropagated",
    "MessageQueued",
    "MessageReceived",
    "MessageSent",
    "MessageUnconfirmed",
    "MessagesMissed",
    "TakenOver",
    "UnknownAppEvent",
]

MAX_APP_EVENT_HEADER: Final = 1_048_576

_MAX_UINT32: Final = 0xFFFF_FFFF


class AppEventKind(IntEnum):
    """The fourth element of a header."""

    HEARTBEAT = 0
    MESSAGE_RECEIVED = 1
    MESSAGE_PROPAGATED = 2
    MESSAGE_SENT = 3
    MESSAGE_ERROR = 4
    CONNECTION_STATUS_CHANGE = 5
    CONTENT_TOPIC_HEALTH_CHANGE = 6
    EVENTS_DROPPED = 7
    MESSAGES_MISSED = 8
    MESSAGE_UNCONFIRMED = 9
    MESSAGE_CANCELLED = 10
    TAKEN_OVER = 11
    MESSAGE_QUEUED = 12
    CHANNEL_MESSAGE_RECEIVED = 13
    CHANNEL_MESSAGE_SENT = 14
    CHANNEL_MESSAGE_DELIVERED = 15
    CHANNEL_MESSAGE_ERROR = 16
    CHANNEL_DELIVERY_ERROR = 17
    CHANNEL_MESSAGE_LOST = 18
    CHANNEL_SYNC = 19
    CHANNEL_SEGMENT_RECEIVED = 20


_ContentTopic = Annotated[str, Size(MAX_APP_EVENT_HEADER)]


class AppHeartbeat(NamedTuple):
    """`seq` is the last one assigned; a heartbeat takes neither seq nor credit."""

    stream_id: bytes
    seq: int
    time_ns: int


LIVE: Final = "live"
HISTORY: Final = "history"


class MessageReceived(NamedTuple):
    """A message on a subscribed content topic; its payload is the third frame.

    `source`: `live`, or `history` when a store had it. A header without it is of a live one.
    """

    stream_id: bytes
    seq: int
    time_ns: int
    content_topic: _ContentTopic
    message_hash: Bin32
    timestamp: Ns
    meta: Annotated[bytes, Size(MAX_META_SIZE)]
    ephemeral: bool
    version: Annotated[int, Range(0, _MAX_UINT32)]
    source: Annotated[str, Size(64)] = LIVE


class MessagePropagated(NamedTuple):
    """A send of this app has reached at least one peer."""

    stream_id: bytes
    seq: int
    time_ns: int
    request_id: Bin16
    message_hash: Bin32


class MessageSent(NamedTuple):
    """A send of this app is confirmed by a store."""

    stream_id: bytes
    seq: int
    time_ns: int
    request_id: Bin16
    message_hash: Bin32


class MessageError(NamedTuple):
    """A send of this app has failed for good; the hash is None if the message was never formed."""

    stream_id: bytes
    seq: int
    time_ns: int
    request_id: Bin16
    message_hash: Bin32 | None
    text: Annotated[str, Size(MAX_TEXT)]


class ConnectionStatusChange(NamedTuple):
    """`status`: `Disconnected`, `PartiallyConnected` or `Connected`."""

    stream_id: bytes
    seq: int
    time_ns: int
    status: Annotated[str, Size(64)]
    reason: Annotated[str, Size(MAX_TEXT)]


class ContentTopicHealthChange(NamedTuple):
    """`health` is a `TopicHealth`."""

    stream_id: bytes
    seq: int
    time_ns: int
    content_topic: _ContentTopic
    health: Annotated[str, Size(64)]


class EventsDropped(NamedTuple):
    """The stream's bounds were exceeded: its events `first`..`last` are gone."""

    stream_id: bytes
    seq: int
    time_ns: int
    first: Uint
    last: Uint
    reason: Annotated[str, Size(MAX_TEXT)]


class MessagesMissed(NamedTuple):
    """Messages of these topics and this time span may be missing and could not be recovered."""

    stream_id: bytes
    seq: int
    time_ns: int
    content_topics: tuple[str, ...]
    from_ns: Ns
    to_ns: Ns
    reason: Annotated[str, Size(MAX_TEXT)]


class MessageUnconfirmed(NamedTuple):
    """A send of this app has propagated, but no store confirmed it."""

    stream_id: bytes
    seq: int
    time_ns: int
    request_id: Bin16
    message_hash: Bin32
    reason: Annotated[str, Size(MAX_TEXT)]


class MessageCancelled(NamedTuple):
    """A send of this app was cancelled."""

    stream_id: bytes
    seq: int
    time_ns: int
    request_id: Bin16


class TakenOver(NamedTuple):
    """Another connection has taken the app's name; the last frame of this one. Takes no seq."""

    stream_id: bytes
    seq: int
    time_ns: int


class MessageQueued(NamedTuple):
    """The rate limit holds this send back until a later epoch. Once per send."""

    stream_id: bytes
    seq: int
    time_ns: int
    request_id: Bin16


_Text = Annotated[str, Size(MAX_TEXT)]


class ChannelMessageReceived(NamedTuple):
    """A payload of another participant, in causal order; it is the third frame. `lamport` in milliseconds."""

    stream_id: bytes
    seq: int
    time_ns: int
    channel_id: _Text
    sender_id: _Text
    message_id: _Text
    lamport: Uint


class ChannelMessageSent(NamedTuple):
    """All segments of a send are with the network."""

    stream_id: bytes
    seq: int
    time_ns: int
    channel_id: _Text
    request_id: Bin16


class ChannelMessageDelivered(NamedTuple):
    """A participant has the whole payload. The last event of this send."""

    stream_id: bytes
    seq: int
    time_ns: int
    channel_id: _Text
    request_id: Bin16
    by: _Text


class ChannelMessageError(NamedTuple):
    """A segment never reached the network. The last event of this send."""

    stream_id: bytes
    seq: int
    time_ns: int
    channel_id: _Text
    request_id: Bin16
    text: _Text


class ChannelDeliveryError(NamedTuple):
    """Sent, but no participant is known to have it. The last event of this send."""

    stream_id: bytes
    seq: int
    time_ns: int
    channel_id: _Text
    request_id: Bin16
    text: _Text


class ChannelMessageLost(NamedTuple):
    """Something was sent to the channel that the app will not get, or not in its place."""

    stream_id: bytes
    seq: int
    time_ns: int
    channel_id: _Text
    payload_hash: Annotated[bytes, Size(32)]
    message_ids: tuple[str, ...]
    reason: _Text


class ChannelSync(NamedTuple):
    """`state`: `synced` or `syncing`; `missing` messages are known of and not here."""

    stream_id: bytes
    seq: int
    time_ns: int
    channel_id: _Text
    state: Annotated[str, Size(64)]
    missing: Uint


class ChannelSegmentReceived(NamedTuple):
    """A segment of another participant, encrypted by its app; it is the third frame. The client decrypts it
    and gives it back with `channel.opened`."""

    stream_id: bytes
    seq: int
    time_ns: int
    channel_id: _Text
    sender_id: _Text
    message_id: _Text


class AppEventHead(NamedTuple):
    """The fields common to all headers behind the first element, used to word the errors of the hot path."""

    stream_id: Bin16
    seq: Uint
    kind: Uint
    time: Ns


class UnknownAppEvent(NamedTuple):
    """An event kind of a later version: skip it, but count its seq."""

    stream_id: bytes
    seq: int
    time_ns: int
    kind: int


AppEvent: TypeAlias = (
    AppHeartbeat
    | MessageReceived
    | MessagePropagated
    | MessageSent
    | MessageError
    | ConnectionStatusChange
    | ContentTopicHealthChange
    | EventsDropped
    | MessagesMissed
    | MessageUnconfirmed
    | MessageCancelled
    | TakenOver
    | MessageQueued
    | ChannelMessageReceived
    | ChannelMessageSent
    | ChannelMessageDelivered
    | ChannelMessageError
    | ChannelDeliveryError
    | ChannelMessageLost
    | ChannelSync
    | ChannelSegmentReceived
    | UnknownAppEvent
)
