"""Events of an app's stream (SPEC.md, "The app's stream"): `LD1` · header · payload.

The header is an append-only array `[1, stream id, seq, kind, time ns, …]`. Elements 5 … of a
`message_received` are elements 6 … 11 of the kernel's message header, in the same order: `pack_fields` packs
them once, for the journal and for any number of apps, and `AppEventEncoder` puts an app's own head in front.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

from msgpack import Packer, packb

from ipc_schema.body import Bin16, Bin32, Ns, Range, Row, Size, Uint
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.fields import INT64_MAX, INT64_MIN, MAX_TEXT, FieldError
from ipc_schema.frames import MAGIC, unpack_header
from ipc_schema.message import MAX_META_SIZE

__all__ = [
    "APP_EVENT",
    "HISTORY",
    "LIVE",
    "MAX_APP_EVENT_HEADER",
    "MAX_EVENT_FIELDS",
    "AppEvent",
    "AppEventEncoder",
    "AppEventError",
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
    "decode_app_event",
    "encode_app_event",
    "event_cost",
    "event_frames",
    "fields_packer",
    "pack_fields",
]

APP_EVENT: Final = 1
"""First element of an event's header; a reply has its correlation id there."""
MAX_APP_EVENT_HEADER: Final = 1_048_576
MAX_EVENT_FIELDS: Final = 10
"""Most elements behind the common five: head and fields together then fit in a fixarray (15 elements)."""

_MAX_UINT32: Final = 0xFFFF_FFFF
_COMMON: Final = 5


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


class AppEventError(IpcError):
    """The bytes are not a header of an app's stream. The code is `bad_request`."""

    def __init__(self, reason: str) -> None:
        super().__init__(ErrorCode.BAD_REQUEST, f"app event header: {reason}")


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


class _Common(NamedTuple):
    """The fields common to all headers behind the first element, used to word the errors of the hot path."""

    stream_id: Bin16
    seq: Uint
    kind: Uint
    time: Ns


_common = Row(_Common)
_rows: Final = {
    AppEventKind.HEARTBEAT: Row(AppHeartbeat, skip=3),
    AppEventKind.MESSAGE_RECEIVED: Row(MessageReceived, skip=3),
    AppEventKind.MESSAGE_PROPAGATED: Row(MessagePropagated, skip=3),
    AppEventKind.MESSAGE_SENT: Row(MessageSent, skip=3),
    AppEventKind.MESSAGE_ERROR: Row(MessageError, skip=3),
    AppEventKind.CONNECTION_STATUS_CHANGE: Row(ConnectionStatusChange, skip=3),
    AppEventKind.CONTENT_TOPIC_HEALTH_CHANGE: Row(ContentTopicHealthChange, skip=3),
    AppEventKind.EVENTS_DROPPED: Row(EventsDropped, skip=3),
    AppEventKind.MESSAGES_MISSED: Row(MessagesMissed, skip=3),
    AppEventKind.MESSAGE_UNCONFIRMED: Row(MessageUnconfirmed, skip=3),
    AppEventKind.MESSAGE_CANCELLED: Row(MessageCancelled, skip=3),
    AppEventKind.TAKEN_OVER: Row(TakenOver, skip=3),
    AppEventKind.MESSAGE_QUEUED: Row(MessageQueued, skip=3),
    AppEventKind.CHANNEL_MESSAGE_RECEIVED: Row(ChannelMessageReceived, skip=3),
    AppEventKind.CHANNEL_MESSAGE_SENT: Row(ChannelMessageSent, skip=3),
    AppEventKind.CHANNEL_MESSAGE_DELIVERED: Row(ChannelMessageDelivered, skip=3),
    AppEventKind.CHANNEL_MESSAGE_ERROR: Row(ChannelMessageError, skip=3),
    AppEventKind.CHANNEL_DELIVERY_ERROR: Row(ChannelDeliveryError, skip=3),
    AppEventKind.CHANNEL_MESSAGE_LOST: Row(ChannelMessageLost, skip=3),
    AppEventKind.CHANNEL_SYNC: Row(ChannelSync, skip=3),
    AppEventKind.CHANNEL_SEGMENT_RECEIVED: Row(ChannelSegmentReceived, skip=3),
}
_received: Final = _rows[AppEventKind.MESSAGE_RECEIVED]
_RECEIVED: Final = 1
_MAX_SOURCE: Final = 64


# --- encoding ---------------------------------------------------------------------------------------------

_ARRAY: Final = 0x90
_HEADS: Final = tuple(bytes([_ARRAY + _COMMON + count]) for count in range(MAX_EVENT_FIELDS + 1))


def pack_fields(*fields: object) -> bytes:
    """Pack elements 5 … of an event as a MessagePack array of its own, to be stored and joined to any
    head.

    Raises `ValueError` for more than 10, and msgpack's errors for what cannot be packed.
    """
    if len(fields) > MAX_EVENT_FIELDS:
        raise ValueError(f"{len(fields)} fields, at most {MAX_EVENT_FIELDS} are allowed")
    packed: bytes = packb(fields)
    return packed


def fields_packer() -> Callable[[tuple[object, ...]], bytes]:
    """Return a `pack_fields` for many events that takes the fields as one tuple.

    Not thread-safe: it reuses a packer.
    """
    pack: Callable[[tuple[object, ...]], bytes] = Packer().pack
    return pack


def encode_app_event(stream_id: bytes, seq: int, kind: int, time_ns: int, *fields: object) -> bytes:
    """Encode the header of one event. Use `AppEventEncoder` for many."""
    if len(fields) > MAX_EVENT_FIELDS:
        raise ValueError(f"{len(fields)} fields, at most {MAX_EVENT_FIELDS} are allowed")
    header: bytes = packb((APP_EVENT, stream_id, seq, int(kind), time_ns, *fields))
    return header


class AppEventEncoder:
    """Encodes the headers of one app's stream. Not thread-safe: it reuses a packer."""

    __slots__ = ("_pack", "_stream_id")

    def __init__(self, stream_id: bytes) -> None:
        self._stream_id = stream_id
        self._pack = Packer().pack

    def encode(self, seq: int, kind: int, time_ns: int, packed_fields: bytes) -> bytes:
        """Return the header: the common elements, then those of `pack_fields`."""
        head: bytes = self._pack((1, self._stream_id, seq, kind, time_ns))
        return _HEADS[packed_fields[0] - _ARRAY] + head[1:] + packed_fields[1:]


def event_frames(header: bytes, payload: bytes = b"") -> list[bytes]:
    return [MAGIC, header, payload]


def event_cost(header: bytes, payload: bytes) -> int:
    """Return an event's cost in credit: the length of its header and payload frames."""
    return len(header) + len(payload)


# --- decoding ---------------------------------------------------------------------------------------------

_new_tuple = tuple.__new__


def decode_app_event(frame: bytes) -> AppEvent:
    """Decode the header of an event. Raises `AppEventError`, and nothing else, whatever the bytes."""
    try:
        header = unpack_header(frame, MAX_APP_EVENT_HEADER)
        if len(header) < _COMMON:
            raise FieldError(f"{len(header)} elements, at least {_COMMON} are needed")
        first, stream_id, seq, kind, time_ns = header[:5]
        if type(first) is not int or first != APP_EVENT:
            raise FieldError(f"the first element is not {APP_EVENT}")
        if (
            type(stream_id) is not bytes
            or len(stream_id) != 16
            or type(seq) is not int
            or not 0 <= seq <= INT64_MAX
            or type(kind) is not int
            or not 0 <= kind <= INT64_MAX
            or type(time_ns) is not int
            or not INT64_MIN <= time_ns <= INT64_MAX
        ):
            _common.read(header[1:5])
        if kind != _RECEIVED:
            return _decode_rare(header)
        # The checks of `_received`, inlined: this is the hot path, and `_received` only words the error.
        if len(header) < 11:
            _received.read(header[5:])
        topic, message_hash, timestamp, meta, ephemeral, version = header[5:11]
        source = header[11] if len(header) > 11 else LIVE
        if (
            type(topic) is not str
            or type(message_hash) is not bytes
            or len(message_hash) != 32
            or type(timestamp) is not int
            or not INT64_MIN <= timestamp <= INT64_MAX
            or type(meta) is not bytes
            or len(meta) > MAX_META_SIZE
            or type(ephemeral) is not bool
            or type(version) is not int
            or not 0 <= version <= _MAX_UINT32
            or type(source) is not str
            or len(source) > _MAX_SOURCE
        ):
            _received.read((*header[5:11], source))
        return _new_tuple(
            MessageReceived,
            (stream_id, seq, time_ns, topic, message_hash, timestamp, meta, ephemeral, version, source),
        )
    except FieldError as error:
        raise AppEventError(str(error)) from None


def _decode_rare(header: tuple[Any, ...]) -> AppEvent:
    _, stream_id, seq, kind, time_ns = header[:5]
    row = _rows.get(kind)
    if row is None:
        return UnknownAppEvent(stream_id, seq, time_ns, kind)
    event: AppEvent = row.cls(stream_id, seq, time_ns, *row.read(header[5:]))
    return event
