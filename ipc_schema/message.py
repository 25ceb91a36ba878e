"""WakuMessage: its protobuf encoding (14/WAKU2-MESSAGE) and its deterministic hash.

Both run at least once for every message on the relay, so they are hand-written: `decode_message` first tries
the exact field order that nwaku writes and falls back to a complete protobuf reader, which accepts any order,
unknown fields and repeated fields (the last one wins).

Errors: `MessageEncodeError` and `MessageDecodeError`, both `ValueError`.

| field | number | type | written by us | absent on input |
|---|---|---|---|---|
| payload | 1 | bytes | always | refused |
| content_topic | 2 | string | always | refused |
| version | 3 | uint32 | always | 0 |
| timestamp | 10 | sint64, ns since 1970 | always | 0 |
| meta | 11 | bytes, at most 64 | always | empty |
| proof (rate_limit_proof) | 21 | bytes | always | empty |
| ephemeral | 31 | bool | always | false |

Every tag is always written because nwaku refuses (and penalises) a message whose payload or content-topic
tag is missing, which is what a stock proto3 encoder produces for empty values.
"""

from __future__ import annotations

from hashlib import sha256
from struct import Struct
from typing import Final, NamedTuple, NoReturn

__all__ = [
    "MAX_META_SIZE",
    "MessageDecodeError",
    "MessageEncodeError",
    "WakuMessage",
    "decode_message",
    "encode_message",
    "encode_varint",
    "format_hash",
    "message_hash",
]

MAX_META_SIZE: Final = 64
"""Largest `meta`, in bytes (14/WAKU2-MESSAGE)."""

HASH_SIZE: Final = 32

_U64: Final = 0xFFFF_FFFF_FFFF_FFFF
_MAX_UINT32: Final = 0xFFFF_FFFF
_MAX_INT64: Final = 0x7FFF_FFFF_FFFF_FFFF
_MIN_INT64: Final = -0x8000_0000_0000_0000
_MAX_FIELD_NUMBER: Final = (1 << 29) - 1
_CONTINUED: Final = 0x8080_8080


class MessageEncodeError(ValueError):
    """A field of the message cannot be encoded: meta too long, a number out of range, invalid Unicode."""


class MessageDecodeError(ValueError):
    """The bytes are not a WakuMessage that the network accepts."""


class WakuMessage(NamedTuple):
    """One message as it travels. `timestamp` is in nanoseconds since 1970 (0: none)."""

    payload: bytes
    content_topic: str
    version: int = 0
    timestamp: int = 0
    meta: bytes = b""
    proof: bytes = b""
    ephemeral: bool = False


# --- encoding ---------------------------------------------------------------------------------------------


def encode_varint(value: int) -> bytes:
    """Return a non-negative number as an unsigned varint."""
    if value < 0x80:
        return value.to_bytes(1, "little")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_message(message: WakuMessage) -> bytes:
    """Return the protobuf encoding, byte for byte what nwaku writes for the same fields.

    Raises `MessageEncodeError` for a meta above 64 bytes, a version outside uint32, a timestamp outside
    int64, or a content topic that is not valid Unicode. Empty payloads and topics are encoded (with their
    tags): refusing to publish them is the caller's policy.
    """
    payload, content_topic, version, timestamp, meta, proof, ephemeral = message
    try:
        topic = content_topic.encode()
    except UnicodeEncodeError as error:
        raise MessageEncodeError(f"content topic is not valid Unicode: {error.reason}") from error
    if len(meta) > MAX_META_SIZE:
        raise MessageEncodeError(f"meta has {len(meta)} bytes, at most {MAX_META_SIZE} are allowed")
    if not 0 <= version <= _MAX_UINT32:
        raise MessageEncodeError(f"version {version} does not fit in uint32")
    if not _MIN_INT64 <= timestamp <= _MAX_INT64:
        raise MessageEncodeError(f"timestamp {timestamp} does not fit in int64")
    zigzag = (timestamp << 1 ^ timestamp >> 63) & _U64
    return b"".join(
        (
            b"\x0a",
            encode_varint(len(payload)),
            payload,
            b"\x12",
            encode_varint(len(topic)),
            topic,
            b"\x18",
            encode_varint(version),
            b"\x50",
            encode_varint(zigzag),
            b"\x5a",
            encode_varint(len(meta)),
            meta,
            b"\xaa\x01",
            encode_varint(len(proof)),
            proof,
            b"\xf8\x01\x01" if ephemeral else b"\xf8\x01\x00",
        )
    )


# --- decoding ---------------------------------------------------------------------------------------------

_new_tuple: Final = tuple.__new__

# What nwaku writes after the content topic of an unremarkable message: version in one byte, a timestamp of
# nine bytes (any date between 1997 and 2116), no meta, no proof:
# 18 vv 50 <8 continued bytes> <last byte> 5a00 aa0100 f801 <ephemeral>
_PLAIN_TAIL_SIZE: Final = 20
_PLAIN_END: Final = b"\x5a\x00\xaa\x01\x00\xf8\x01"
_plain_tail: Final = Struct("<BBBIIB7sB").unpack_from


def decode_message(data: bytes | memoryview) -> WakuMessage:
    """Decode one WakuMessage.

    Unknown fields are skipped; a known field with another wire type counts as absent; of a repeated field
    the last one wins; a non-zero `ephemeral` is true.

    Raises `MessageDecodeError`: payload or content-topic tag missing, meta above 64 bytes, content topic
    not UTF-8, version above uint32, truncated or malformed protobuf. Nothing else is ever raised, whatever
    the bytes.
    """
    # One copy here is cheaper than a copy out of a view for each field.
    return _decode(data if isinstance(data, bytes) else bytes(data))


def _decode(data: bytes) -> WakuMessage:
    size = len(data)
    # Fast path: the canonical order and a plain tail. Anything unexpected goes to the complete reader.
    if size < 4 + _PLAIN_TAIL_SIZE or data[0] != 0x0A:
        return _decode_any(data)
    length = data[1]
    start = 2
    if length >= 0x80:
        second = data[2]
        if second < 0x80:
            length += (second << 7) - 0x80
            start = 3
        else:
            third = data[3]
            if third >= 0x80:
                return _decode_any(data)
            length += (second << 7) + (third << 14) - 0x4080
            start = 4
    end = start + length
    # The topic (tag, one length byte, text) lies between the payload and the last 20 bytes.
    tail = size - _PLAIN_TAIL_SIZE
    topic_start = end + 2
    if topic_start > tail or data[end] != 0x12 or topic_start + data[end + 1] != tail:
        return _decode_any(data)
    if data[end + 1] >= 0x80:
        return _decode_any(data)
    fields: tuple[int, int, int, int, int, int, bytes, int] = _plain_tail(data, tail)
    version_tag, version, time_tag, low, high, last, between, flag = fields
    if (
        version_tag != 0x18
        or version >= 0x80
        or time_tag != 0x50
        or low & high & _CONTINUED != _CONTINUED
        or last >= 0x80
        or between != _PLAIN_END
        or flag >= 0x80
    ):
        return _decode_any(data)
    # Squeeze the continuation bits out of twice four varint bytes: 4 x 7 bits, then 2 x 14, 1 x 28. All are
    # numbers that need no memory in the compiled build.
    low = low & 0x007F_007F | (low & 0x7F00_7F00) >> 1
    high = high & 0x007F_007F | (high & 0x7F00_7F00) >> 1
    low = low & 0x3FFF | (low & 0x3FFF_0000) >> 2
    high = high & 0x3FFF | (high & 0x3FFF_0000) >> 2
    zigzag = low | high << 28 | last << 56
    try:
        topic = data[topic_start:tail].decode()
    except UnicodeDecodeError as error:
        raise MessageDecodeError("content topic is not valid UTF-8") from error
    return _new_tuple(
        WakuMessage,
        (data[start:end], topic, version, zigzag >> 1 ^ -(zigzag & 1), b"", b"", flag != 0),
    )


def _fail(what: str) -> NoReturn:
    raise MessageDecodeError(what)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return (value, position after it). Raises for values above 64 bits."""
    value = 0
    shift = 0
    try:
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                _fail("varint longer than 10 bytes")
    except IndexError:
        raise MessageDecodeError("truncated varint") from None
    if value > _U64:
        _fail("varint above 64 bits")
    return value, at


def _decode_any(data: bytes) -> WakuMessage:
    """Decode any field order, with unknown and repeated fields."""
    size = len(data)
    payload: bytes | None = None
    topic: bytes | None = None
    version = zigzag = ephemeral = 0
    meta = proof = b""
    at = 0
    while at < size:
        key, at = _read_varint(data, at)
        field = key >> 3
        wire_type = key & 7
        if not 0 < field <= _MAX_FIELD_NUMBER:
            _fail(f"field number {field} is not allowed")
        if wire_type == 0:
            value, at = _read_varint(data, at)
            if field == 3:
                # nwaku rejects a version above uint32, and forwarding one would cost us score there.
                if value > _MAX_UINT32:
                    _fail("version does not fit in uint32")
                version = value
            elif field == 10:
                zigzag = value
            elif field == 31:
                ephemeral = value
        elif wire_type == 2:
            length, start = _read_varint(data, at)
            at = start + length
            if at > size:
                _fail(f"field {field} is truncated")
            if field == 1:
                payload = data[start:at]
            elif field == 2:
                topic = data[start:at]
            elif field == 11:
                if length > MAX_META_SIZE:
                    _fail(f"meta has {length} bytes, at most {MAX_META_SIZE} are allowed")
                meta = data[start:at]
            elif field == 21:
                proof = data[start:at]
        elif wire_type in (1, 5):
            at += 8 if wire_type == 1 else 4
            if at > size:
                _fail(f"field {field} is truncated")
        else:
            _fail(f"wire type {wire_type} is not supported")
    if payload is None:
        _fail("payload is missing")
    if topic is None:
        _fail("content topic is missing")
    try:
        content_topic = topic.decode()
    except UnicodeDecodeError as error:
        raise MessageDecodeError("content topic is not valid UTF-8") from error
    timestamp = zigzag >> 1 ^ -(zigzag & 1)
    return WakuMessage(payload, content_topic, version, timestamp, meta, proof, ephemeral != 0)


# --- the deterministic message hash -----------------------------------------------------------------------

_pack_int64 = Struct(">q").pack


def message_hash(pubsub_topic: str, message: WakuMessage) -> bytes:
    """Return the 32-byte deterministic message hash of 14/WAKU2-MESSAGE.

    sha256(pubsub topic || payload || content topic || meta || timestamp as 8 big-endian bytes). Version,
    proof and `ephemeral` do not enter. A timestamp of 0 enters as eight zero bytes, as in nwaku; js-waku
    leaves it out, so an unstamped message has two hashes on the network: always stamp what you publish.
    """
    payload, content_topic, _, timestamp, meta, _, _ = message
    return sha256(
        b"".join((pubsub_topic.encode(), payload, content_topic.encode(), meta, _pack_int64(timestamp)))
    ).digest()


def format_hash(digest: bytes) -> str:
    """Format a hash for APIs and logs: `0x` and 64 lower-case hex digits."""
    return "0x" + digest.hex()
