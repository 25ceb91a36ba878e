"""Fields of protobuf messages, to write by hand what no codec of ours would."""

from __future__ import annotations

from ipc_schema import protobuf


def put_bytes(field: int, value: bytes) -> bytes:
    out = bytearray()
    protobuf.put_bytes(out, field, value)
    return bytes(out)


def put_varint(field: int, value: int) -> bytes:
    out = bytearray()
    protobuf.put_varint(out, field, value)
    return bytes(out)
