"""Read and write protobuf fields with their wire types, which distinguish the channel formats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ipc_schema.message import encode_varint

VARINT: Final = 0
BYTES: Final = 2
_FIXED: Final = {1: 8, 5: 4}
_U64: Final = 2**64 - 1


class MalformedProtobufError(ValueError):
    """The bytes are not a protobuf message."""


def put_varint(number: int, value: int) -> bytes:
    """Encode a varint field."""
    return encode_varint(number << 3) + encode_varint(value)


def put_bytes(number: int, value: bytes) -> bytes:
    """Encode a length-delimited field."""
    return b"".join((encode_varint(number << 3 | BYTES), encode_varint(len(value)), value))


def fields(body: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield (field number, wire type, value) in wire order; fields of fixed width are passed over.

    Raises `MalformedProtobufError` for truncated or malformed input.
    """
    position, end = 0, len(body)
    while position < end:
        tag = body[position]
        if tag < 0x80:
            position += 1
        else:
            tag, position = _read_varint(body, position)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise MalformedProtobufError("field number 0")
        if kind == VARINT:
            value, position = _read_varint(body, position)
            yield number, VARINT, value
            continue
        if kind == BYTES:
            if position < end and (length := body[position]) < 0x80:
                position += 1
            else:
                length, position = _read_varint(body, position)
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise MalformedProtobufError(f"wire type {kind} is not supported")
        if length > end - position:
            raise MalformedProtobufError(f"field {number} is longer than the message")
        if kind == BYTES:
            yield number, BYTES, body[position : position + length]
        position += length


def as_text(value: bytes) -> str:
    """Decode a string field."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise MalformedProtobufError("text is not valid UTF-8") from error


def _read_varint(body: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(body):
            raise MalformedProtobufError("truncated varint")
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise MalformedProtobufError("varint is longer than 10 bytes")
    if value > _U64:
        raise MalformedProtobufError("varint is above 64 bits")
    return value, position
