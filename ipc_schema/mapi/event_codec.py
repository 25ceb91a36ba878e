"""Headers of an app's stream (SPEC.md, "The app's stream"): `LD1` · header · payload.

The header is an append-only array `[1, stream id, seq, kind, time ns, …]`. Elements 5 … of a
`message_received` are elements 6 … 11 of the kernel's message header, in the same order: `pack_fields` packs
them once, for the journal and for any number of apps, and `AppEventEncoder` puts an app's own head in front.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, get_args

from msgpack import Packer, packb

from ipc_schema.body import Row
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.fields import INT64_MAX, INT64_MIN, FieldError
from ipc_schema.frames import MAGIC, unpack_header
from ipc_schema.mapi.events import (
    LIVE,
    MAX_APP_EVENT_HEADER,
    AppEvent,
    AppEventHead,
    AppEventKind,
    MessageReceived,
    UnknownAppEvent,
)
from ipc_schema.message import MAX_META_SIZE

__all__ = [
    "APP_EVENT",
    "MAX_EVENT_FIELDS",
    "AppEventEncoder",
    "AppEventError",
    "decode_app_event",
    "decode_received",
    "encode_app_event",
    "event_cost",
    "event_frames",
    "fields_packer",
    "pack_fields",
]

_T = TypeVar("_T", bound=tuple[Any, ...])

APP_EVENT: Final = 1
"""First element of an event's header; a reply has its correlation id there."""
MAX_EVENT_FIELDS: Final = 10
"""Most elements behind the common five: head and fields together then fit in a fixarray (15 elements)."""

_MAX_UINT32: Final = 0xFFFF_FFFF
_COMMON: Final = 5


class AppEventError(IpcError):
    """The bytes are not a header of an app's stream. The code is `bad_request`."""

    def __init__(self, reason: str) -> None:
        super().__init__(ErrorCode.BAD_REQUEST, f"app event header: {reason}")


_common = Row(AppEventHead)
# The union names the events in the order of their kinds; the unknown one, its last, has none.
_rows: Final = {
    kind: Row(cls, skip=3) for kind, cls in zip(AppEventKind, get_args(AppEvent)[:-1], strict=True)
}
_RECEIVED: Final = 1
_RECEIVED_SIZE: Final = 12
"""Elements of a `message_received` in this version."""
_LIVE_SIZE: Final = _RECEIVED_SIZE - 1
"""Elements of one that does not say its source: most, since it was live then."""
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
        fields = _received(header)
        return _decode_any(header) if fields is None else _new_tuple(MessageReceived, fields)
    except FieldError as error:
        raise AppEventError(str(error)) from None


def decode_received(frame: bytes, payload: bytes, cls: type[_T]) -> _T | None:
    """Decode a received message as a named tuple that has the payload behind the content topic.

    Return None for every other event, and for what is none: `decode_app_event` tells what it is.
    """
    try:
        fields = _received(unpack_header(frame, MAX_APP_EVENT_HEADER))
    except FieldError:
        return None
    if fields is None:
        return None
    stream_id, seq, time_ns, topic, digest, stamp, meta, ephemeral, version, source = fields
    whole = (stream_id, seq, time_ns, topic, payload, digest, stamp, meta, ephemeral, version, source)
    return _new_tuple(cls, whole)


def _received(header: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Return the fields of a received message, None unless the header is that of one and has no fault."""
    # The checks of the rows, inlined for what comes most; the rows word the error.
    if len(header) == _LIVE_SIZE:
        first, stream_id, seq, kind, time_ns, topic, digest, stamp, meta, ephemeral, version = header
        source: Any = LIVE
    elif len(header) == _RECEIVED_SIZE:
        first, stream_id, seq, kind, time_ns, topic, digest, stamp, meta, ephemeral, version, source = header
    else:
        return None
    if (
        type(first) is int
        and first == APP_EVENT
        and type(kind) is int  # True and 1.0 equal 1, too
        and kind == _RECEIVED
        and type(stream_id) is bytes
        and len(stream_id) == 16
        and type(seq) is int
        and 0 <= seq <= INT64_MAX
        and type(time_ns) is int
        and INT64_MIN <= time_ns <= INT64_MAX
        and type(topic) is str
        and type(digest) is bytes
        and len(digest) == 32
        and type(stamp) is int
        and INT64_MIN <= stamp <= INT64_MAX
        and type(meta) is bytes
        and len(meta) <= MAX_META_SIZE
        and type(ephemeral) is bool
        and type(version) is int
        and 0 <= version <= _MAX_UINT32
        and type(source) is str
        and len(source) <= _MAX_SOURCE
    ):
        return stream_id, seq, time_ns, topic, digest, stamp, meta, ephemeral, version, source
    return None


def _decode_any(header: tuple[Any, ...]) -> AppEvent:
    if len(header) < _COMMON:
        raise FieldError(f"{len(header)} elements, at least {_COMMON} are needed")
    if type(header[0]) is not int or header[0] != APP_EVENT:
        raise FieldError(f"the first element is not {APP_EVENT}")
    stream_id, seq, kind, time_ns = _common.read(header[1:_COMMON])
    row = _rows.get(kind)
    if row is None:
        return UnknownAppEvent(stream_id, seq, time_ns, kind)
    fields = header[_COMMON:]
    if kind == _RECEIVED and len(header) == _LIVE_SIZE:
        fields += (LIVE,)
    event: AppEvent = row.cls(stream_id, seq, time_ns, *row.read(fields))
    return event
