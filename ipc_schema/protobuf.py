"""Read and write fields of small protobuf messages, for protocols that do not warrant generated classes.
Pure.

Readers iterate over `fields` and take those of the expected type: as in nwaku, a field of another wire type
counts as absent, and the last value of a singular field wins.
"""

from __future__ import annotations

from collections.abc import Iterator

from ipc_schema.message import encode_varint

__all__ = [
    "MissingField",
    "ProtobufError",
    "ProtobufFields",
    "fields",
    "packed_varints",
    "put_bytes",
    "put_text",
    "put_varint",
    "put_zigzag",
    "text",
    "unzigzag",
]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_U64 = 2**64 - 1


class ProtobufError(ValueError):
    """The bytes are not the expected protobuf message. `nwaku` is nwaku's text for the same error, for use
    in responses."""

    def __init__(self, message: str, kind: str = "VarintDecode") -> None:
        super().__init__(message)
        self.nwaku = f"(kind: DecodeFailure, error: {kind})"


class MissingField(ProtobufError):
    """A required field is absent from the wire (an empty one counts as present, as in nwaku)."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is missing")
        self.nwaku = f'(kind: MissingRequiredField, field: "{name}")'


# --- reading ---


def fields(body: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) in wire order: int for varints, bytes for length-delimited fields.

    Fixed-width fields are skipped: no Waku message has any. Raise ProtobufError for truncated or malformed
    input, including groups.
    """
    position, end = 0, len(body)
    while position < end:
        tag = body[position]  # tags, lengths and small numbers are one byte, mostly
        if tag < 0x80:
            position += 1
        else:
            tag, position = _varint(body, position)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ProtobufError("field number 0", "BadWireType")
        if kind == _VARINT:
            if position < end and (value := body[position]) < 0x80:
                position += 1
            else:
                value, position = _varint(body, position)
            yield number, value
            continue
        if kind == _BYTES:
            if position < end and (length := body[position]) < 0x80:
                position += 1
            else:
                length, position = _varint(body, position)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ProtobufError(f"wire type {kind}", "BadWireType")
        if length > end - position:
            raise ProtobufError("field exceeds the message", "MessageIncomplete")
        if kind == _BYTES:
            yield number, body[position : position + length]
        position += length


class ProtobufFields:
    """The fields of a message by number, for messages that are read once in no particular order."""

    __slots__ = ("_blobs", "_numbers")

    def __init__(self, body: bytes) -> None:
        """Parse a message. Raise ProtobufError."""
        self._numbers: dict[int, int] = {}
        self._blobs: dict[int, list[bytes]] = {}
        for number, value in fields(body):
            if isinstance(value, int):
                self._numbers[number] = value
            else:
                self._blobs.setdefault(number, []).append(value)

    def number(self, field: int) -> int | None:
        """Return an unsigned varint, None if absent."""
        return self._numbers.get(field)

    def signed(self, field: int) -> int | None:
        """Return a sint64, None if absent."""
        value = self._numbers.get(field)
        return None if value is None else unzigzag(value)

    def blob(self, field: int) -> bytes | None:
        """Return the last value of a length-delimited field, None if absent."""
        found = self._blobs.get(field)
        # Protobuf: of several values of a singular field, the last one counts.
        return found[-1] if found else None

    def blobs(self, field: int) -> list[bytes]:
        """Return all values of a repeated length-delimited field."""
        return self._blobs.get(field, [])

    def text(self, field: int) -> str | None:
        """Return a string, None if absent. Raise ProtobufError if it is not UTF-8."""
        value = self.blob(field)
        return None if value is None else text(value)

    def texts(self, field: int) -> tuple[str, ...]:
        """Return all values of a repeated string. Raise ProtobufError."""
        return tuple(text(value) for value in self.blobs(field))

    def required_blob(self, field: int, name: str) -> bytes:
        """Return a length-delimited field that must be present. Raise MissingField."""
        value = self.blob(field)
        if value is None:
            raise MissingField(name)
        return value

    def required_text(self, field: int, name: str) -> str:
        """Return a string that must be present, even if empty. Raise MissingField or ProtobufError."""
        return text(self.required_blob(field, name))


def text(value: bytes) -> str:
    """Decode a string field's value. Raise ProtobufError if it is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ProtobufError("text is not UTF-8", "IncorrectBlob") from None


def packed_varints(value: bytes) -> Iterator[int]:
    """Yield the numbers of a packed repeated field. Raise ProtobufError."""
    position = 0
    while position < len(value):
        number, position = _varint(value, position)
        yield number


def unzigzag(value: int) -> int:
    """Decode the varint of a sint64 (ZigZag: 0, -1, 1, -2 … as 0, 1, 2, 3 …)."""
    return value >> 1 ^ -(value & 1)


def _varint(body: bytes, position: int) -> tuple[int, int]:
    # Ten bytes carry 70 bits: what exceeds 64 is cut off, as the protobuf libraries do.
    value, shift = 0, 0
    for index in range(position, min(position + _MAX_VARINT_BYTES, len(body))):
        byte = body[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _U64, index + 1
        shift += 7
    raise ProtobufError("truncated varint")


# --- writing (None: an optional field that is absent) ---


def put_varint(out: bytearray, field: int, value: int | None) -> None:
    """Append an unsigned number below 2^64 (also a bool or an enum)."""
    if value is not None:
        out += encode_varint(field << 3 | _VARINT)
        out += encode_varint(value)


def put_zigzag(out: bytearray, field: int, value: int | None) -> None:
    """Append a sint64."""
    if value is not None:
        put_varint(out, field, (value << 1 ^ value >> 63) & _U64)


def put_bytes(out: bytearray, field: int, value: bytes | bytearray | None) -> None:
    """Append bytes or a nested message, even if empty: nwaku requires the tags of some."""
    if value is not None:
        out += encode_varint(field << 3 | _BYTES)
        out += encode_varint(len(value))
        out += value


def put_text(out: bytearray, field: int, value: str | None) -> None:
    """Append a string. Raise UnicodeEncodeError for lone surrogates."""
    if value is not None:
        put_bytes(out, field, value.encode())
