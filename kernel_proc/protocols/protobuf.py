"""The fields of a small protobuf message, for protocols that are not worth a generated class. Pure."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["VARINT", "ProtobufError", "fields", "packed_varints"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10
_U64 = 2**64 - 1


class ProtobufError(ValueError):
    """The bytes are not a protobuf message."""


def fields(body: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) in wire order: an int for varints, bytes for everything else.

    Raises ProtobufError for truncated or malformed input, groups included.
    """
    position, end = 0, len(body)
    while position < end:
        tag, position = _varint(body, position)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ProtobufError("field number 0")
        if kind == VARINT:
            value, position = _varint(body, position)
            yield number, value
            continue
        if kind == BYTES:
            length, position = _varint(body, position)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise ProtobufError(f"wire type {kind}")
        if length > end - position:
            raise ProtobufError("field longer than the message")
        yield number, body[position : position + length]
        position += length


def packed_varints(value: bytes) -> Iterator[int]:
    """The numbers of a packed repeated field. Raises ProtobufError."""
    position = 0
    while position < len(value):
        number, position = _varint(value, position)
        yield number


def _varint(body: bytes, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    for index in range(position, min(position + MAX_VARINT_BYTES, len(body))):
        byte = body[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _U64, index + 1
        shift += 7
    raise ProtobufError("varint ends in mid-air")
