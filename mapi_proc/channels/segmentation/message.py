"""`SegmentMessage`: one segment on the wire, and the older forms of it.

| field | newest | LIP text before | in between |
|---|---|---|---|
| 1 | payload hash | payload hash | payload hash |
| 2 | payload length | data index | payload length |
| 3 | index within its class | data count | index |
| 4 | data count | payload (bytes) | segment count |
| 5 | parity count | parity index | is_parity |
| 6 | is_parity | parity count | payload (bytes) |
| 7 | payload (bytes) | is_parity | - |

The wire type of the payload's field distinguishes them. Only the newest form is written.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ipc_schema.protobuf import ProtobufError, fields, put_bytes, put_varint

HASH_SIZE: Final = 32

UNKNOWN_LENGTH: Final = -1
"""The length of a payload whose segments came in the LIP's earlier form, which does not carry it."""

_MAX_UINT32: Final = 2**32 - 1


class SegmentError(ValueError):
    """The bytes are not a segment. `reason` names the metric label of the reference."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class SegmentMessage(NamedTuple):
    """One segment. `position` counts from 0 within its class: data or parity."""

    payload_hash: bytes
    payload_length: int
    position: int
    data_count: int
    parity_count: int
    is_parity: bool
    payload: bytes


def encode_segment(segment: SegmentMessage) -> bytes:
    """Encode the newest form: fields ascending, default values left out."""
    payload_hash, *numbers, payload = segment
    out = bytearray()
    put_bytes(out, 1, payload_hash)
    for number, value in enumerate(numbers, 2):
        put_varint(out, number, value or None)
    put_bytes(out, 7, payload or None)
    return bytes(out)


def decode_segment(data: bytes) -> SegmentMessage:
    """Decode any of the three forms. Raises `SegmentError`."""
    numbers: dict[int, int] = {}
    texts: dict[int, bytes] = {}
    try:
        for number, value in fields(data):
            if isinstance(value, bytes):
                texts[number] = value
            else:
                numbers[number] = value
    except ProtobufError as error:
        raise SegmentError("Undecodable", f"not a segment: {error}") from error
    payload_hash = texts.get(1)
    if payload_hash is None:
        raise SegmentError("Undecodable", "the payload hash is missing")
    if len(payload_hash) != HASH_SIZE:
        raise SegmentError("Invalid", f"the payload hash has {len(payload_hash)} bytes")
    segment = _shape(payload_hash, numbers, texts)
    _check(segment)
    return segment


def _shape(payload_hash: bytes, numbers: dict[int, int], texts: dict[int, bytes]) -> SegmentMessage:
    get = numbers.get
    if 4 in texts:  # the LIP's earlier text
        parity = bool(get(7, 0))
        index = get(5, 0) if parity else get(2, 0)
        return SegmentMessage(payload_hash, UNKNOWN_LENGTH, index, get(3, 0), get(6, 0), parity, texts[4])
    if 6 in texts:
        parity = bool(get(5, 0))
        return SegmentMessage(payload_hash, get(2, 0), get(3, 0), get(4, 0), int(parity), parity, texts[6])
    return SegmentMessage(
        payload_hash, get(2, 0), get(3, 0), get(4, 0), get(5, 0), bool(get(6, 0)), texts.get(7, b"")
    )


def _check(segment: SegmentMessage) -> None:
    if not 1 <= segment.data_count <= _MAX_UINT32 or segment.parity_count > _MAX_UINT32:
        raise SegmentError("Invalid", f"{segment.data_count} + {segment.parity_count} segments")
    count = segment.parity_count if segment.is_parity else segment.data_count
    if segment.position >= count:
        raise SegmentError("Invalid", f"index {segment.position} of {count} segments")
