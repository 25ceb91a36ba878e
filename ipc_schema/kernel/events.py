"""Events of the kernel's XPUB socket (SPEC.md, "Events (SUB)"): F0 topic, F1 header, F2 body.

The header is an append-only array `[version, kind, instance, epoch, seq, time ns, …]`. Decoding and encoding
message headers runs once per message and is written for speed; health and peers are not hot.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

from msgpack import Packer, packb

from ipc_schema.body import Bin8, Bin16, Bin32, Ns, Range, Row, Size, Uint
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.fields import INT64_MAX, INT64_MIN, FieldError
from ipc_schema.frames import unpack_header
from ipc_schema.kernel.records import NodeHealth, PeerRecord
from ipc_schema.message import MAX_META_SIZE, WakuMessage

__all__ = [
    "EVENT_VERSION",
    "HEALTH_TOPIC",
    "MAX_EVENT_HEADER",
    "PEERS_TOPIC",
    "SOURCE_FILTER",
    "SOURCE_RELAY",
    "SOURCE_SELF",
    "EventKind",
    "HeaderError",
    "HealthEvent",
    "Heartbeat",
    "KernelEvent",
    "MessageEvent",
    "MessageHeaderEncoder",
    "PeerEvent",
    "UnknownEvent",
    "decode_header",
    "encode_health",
    "encode_heartbeat",
    "encode_message_header",
    "encode_peer",
    "other_version",
    "parse_stream",
    "stream_name",
    "stream_topic",
]

EVENT_VERSION: Final = 1
HEALTH_TOPIC: Final = b"p\0"
PEERS_TOPIC: Final = b"n\0"
SOURCE_RELAY: Final = 0
SOURCE_FILTER: Final = 1
SOURCE_SELF: Final = 2
MAX_EVENT_HEADER: Final = 1_048_576
"""Longest header accepted. Content topic and proof are bounded by the network's message size only."""


_MAX_UINT32: Final = 0xFFFF_FFFF
_MAX_SOURCE: Final = 0xFF
_MESSAGE: Final = 1


class EventKind(IntEnum):
    """The second element of a header."""

    HEARTBEAT = 0
    MESSAGE = 1
    HEALTH = 2
    PEER = 3


class HeaderError(IpcError):
    """The bytes are not an event header of this version. The code is `bad_request`."""

    def __init__(self, reason: str) -> None:
        super().__init__(ErrorCode.BAD_REQUEST, f"event header: {reason}")


class Heartbeat(NamedTuple):
    """`seq` is the last one assigned on the stream; `covered`: whether coverage is open now."""

    instance: bytes
    epoch: bytes
    seq: int
    time_ns: int
    covered: bool


class MessageEvent(NamedTuple):
    """A message on a shard; its payload is F2. `source` is one of `SOURCE_…` (others may come)."""

    instance: bytes
    epoch: bytes
    seq: int
    time_ns: int
    content_topic: Annotated[str, Size(MAX_EVENT_HEADER)]
    message_hash: Bin32
    timestamp: Ns
    meta: Annotated[bytes, Size(MAX_META_SIZE)]
    ephemeral: bool
    version: Annotated[int, Range(0, _MAX_UINT32)]
    proof: bytes
    source: Annotated[int, Range(0, _MAX_SOURCE)]


class HealthEvent(NamedTuple):
    """The node's health changed; `health` is complete."""

    instance: bytes
    epoch: bytes
    seq: int
    time_ns: int
    health: NodeHealth


class PeerEvent(NamedTuple):
    """A peer joined, left or changed (`change` is a `PeerChange`; others may come)."""

    instance: bytes
    epoch: bytes
    seq: int
    time_ns: int
    change: Annotated[str, Size(64)]
    peer: PeerRecord


class _Common(NamedTuple):
    """The fields common to all headers, used to word the errors of the hot path."""

    kind: Uint
    instance: Bin16
    epoch: Bin8
    seq: Uint
    time: Ns


class UnknownEvent(NamedTuple):
    """An event kind of a later version: skip it, but count its seq."""

    instance: bytes
    epoch: bytes
    seq: int
    time_ns: int
    kind: int


KernelEvent: TypeAlias = Heartbeat | MessageEvent | HealthEvent | PeerEvent | UnknownEvent


# --- topics -----------------------------------------------------------------------------------------------


def stream_name(cluster: int, shard: int) -> str:
    """Return the name of a message stream in requests and replies: `m/<cluster>/<shard>`."""
    return f"m/{cluster}/{shard}"


def stream_topic(cluster: int, shard: int) -> bytes:
    """Return the subscription string and F0 of a message stream: its name and a NUL byte.

    The NUL keeps a subscription to `m/1/1` from matching `m/1/10`: ZeroMQ subscriptions match by prefix.
    """
    return b"m/%d/%d\0" % (cluster, shard)


def parse_stream(name: str) -> tuple[int, int]:
    """Return (cluster, shard) of a message stream's name. Raises `IpcError` (`bad_request`)."""
    parts = name.split("/")
    if len(parts) == 3 and parts[0] == "m":
        numbers = [int(part) for part in parts[1:] if part.isascii() and part.isdigit() and len(part) <= 5]
        if len(numbers) == 2 and max(numbers) <= 0xFFFF and name == stream_name(*numbers):
            return numbers[0], numbers[1]
    raise IpcError(ErrorCode.BAD_REQUEST, f"stream: {name[:64]!r} is not m/<cluster>/<shard>")


# --- encoding ---------------------------------------------------------------------------------------------


def encode_message_header(
    instance: bytes,
    epoch: bytes,
    seq: int,
    time_ns: int,
    message: WakuMessage,
    message_hash: bytes,
    source: int,
) -> bytes:
    """Encode F1 of a message. Use `MessageHeaderEncoder` for many on one stream."""
    return MessageHeaderEncoder(instance, epoch).encode(seq, time_ns, message, message_hash, source)


class MessageHeaderEncoder:
    """Encodes the message headers of one stream epoch. Not thread-safe: it reuses a packer."""

    __slots__ = ("_epoch", "_instance", "_pack")

    def __init__(self, instance: bytes, epoch: bytes) -> None:
        self._instance = instance
        self._epoch = epoch
        self._pack = Packer().pack

    def encode(self, seq: int, time_ns: int, message: WakuMessage, message_hash: bytes, source: int) -> bytes:
        """Encode F1 of `message`. The fields are not checked: they come from `decode_message`."""
        _, content_topic, version, timestamp, meta, proof, ephemeral = message
        header: bytes = self._pack(
            (
                1,
                1,
                self._instance,
                self._epoch,
                seq,
                time_ns,
                content_topic,
                message_hash,
                timestamp,
                meta,
                ephemeral,
                version,
                proof,
                source,
            )
        )
        return header


def encode_heartbeat(instance: bytes, epoch: bytes, seq: int, time_ns: int, covered: bool) -> bytes:
    """Encode F1 of a heartbeat. `seq` is the last one assigned; a heartbeat takes none itself."""
    return _pack((EVENT_VERSION, int(EventKind.HEARTBEAT), instance, epoch, seq, time_ns, covered))


def encode_health(instance: bytes, epoch: bytes, seq: int, time_ns: int, health: NodeHealth) -> bytes:
    """Encode F1 of a health event."""
    body = health.to_body()
    return _pack((EVENT_VERSION, int(EventKind.HEALTH), instance, epoch, seq, time_ns, body))


def encode_peer(
    instance: bytes, epoch: bytes, seq: int, time_ns: int, change: str, peer: PeerRecord
) -> bytes:
    """Encode F1 of a peer event."""
    body = peer.to_body()
    return _pack((EVENT_VERSION, int(EventKind.PEER), instance, epoch, seq, time_ns, str(change), body))


def _pack(header: tuple[object, ...]) -> bytes:
    packed: bytes = packb(header)
    return packed


# --- decoding ---------------------------------------------------------------------------------------------

_new_tuple = tuple.__new__
_common = Row(_Common)
_message = Row(MessageEvent, skip=4)
_rare = {
    EventKind.HEARTBEAT: Row(Heartbeat, skip=4),
    EventKind.HEALTH: Row(HealthEvent, skip=4),
    EventKind.PEER: Row(PeerEvent, skip=4),
}


def decode_header(frame: bytes) -> KernelEvent:
    """Decode F1. Raises `HeaderError`, and nothing else, whatever the bytes."""
    try:
        header = unpack_header(frame, MAX_EVENT_HEADER)
        if len(header) < 6:
            raise FieldError(f"{len(header)} elements, at least 6 are needed")
        version, kind, instance, epoch, seq, time_ns = header[:6]
        if type(version) is not int or version != EVENT_VERSION:
            raise FieldError(f"version {version!r} is not {EVENT_VERSION}")
        if (
            type(kind) is not int
            or not 0 <= kind <= INT64_MAX
            or type(instance) is not bytes
            or len(instance) != 16
            or type(epoch) is not bytes
            or len(epoch) != 8
            or type(seq) is not int
            or not 0 <= seq <= INT64_MAX
            or type(time_ns) is not int
            or not INT64_MIN <= time_ns <= INT64_MAX
        ):
            _common.read(header[1:6])
        if kind != _MESSAGE:
            return _decode_rare(header)
        # The checks of `_message`, inlined: this is the hot path, and `_message` only words the error.
        if len(header) < 14:
            _message.read(header[6:])
        topic, message_hash, timestamp, meta, ephemeral, message_version, proof, source = header[6:14]
        if (
            type(topic) is not str
            or type(message_hash) is not bytes
            or len(message_hash) != 32
            or type(timestamp) is not int
            or not INT64_MIN <= timestamp <= INT64_MAX
            or type(meta) is not bytes
            or len(meta) > MAX_META_SIZE
            or type(ephemeral) is not bool
            or type(message_version) is not int
            or not 0 <= message_version <= _MAX_UINT32
            or type(proof) is not bytes
            or type(source) is not int
            or not 0 <= source <= _MAX_SOURCE
        ):
            _message.read(header[6:])
        return _new_tuple(MessageEvent, header[2:14])
    except FieldError as error:
        raise HeaderError(str(error)) from None


def other_version(frame: bytes) -> int | None:
    """Return the version of a header of another version than ours (SPEC.md 3.1); None for all other bytes."""
    try:
        header = unpack_header(frame, MAX_EVENT_HEADER)
    except FieldError:
        return None
    version = header[0] if header else None
    return version if type(version) is int and version != EVENT_VERSION else None


def _decode_rare(header: tuple[Any, ...]) -> KernelEvent:
    row = _rare.get(header[1])
    if row is None:
        kind, instance, epoch, seq, time_ns = header[1:6]
        return UnknownEvent(instance, epoch, seq, time_ns, kind)
    event: KernelEvent = row.cls(*header[2:6], *row.read(header[6:]))
    return event
