"""The common head of store, lightpush and filter responses. Pure.

| field | |
|---|---|
| 1 request_id | go-waku omits an empty one, like any stock proto3 encoder |
| 10 status_code | uint32; a response without one is invalid |
| 11 optional status_desc | |

nwaku requires the first two on the wire, so they are written even when empty.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ipc_schema.protobuf import MissingField, ProtobufFields, put_text, put_varint

NO_ID: Final = "N/A"
"""Request id of a response to an unreadable or unread request (nwaku)."""

_UINT32: Final = 0xFFFF_FFFF


class ReplyHead(NamedTuple):
    """The first three fields of a response."""

    request_id: str
    status: int
    description: str | None = None


def put_head(out: bytearray, request_id: str, status: int, description: str | None) -> None:
    """Append the head."""
    put_text(out, 1, request_id)
    put_varint(out, 10, status)
    put_text(out, 11, description)


def read_head(found: ProtobufFields) -> ReplyHead:
    """Decode the head; a missing request id becomes "". Raise ProtobufError, or MissingField without a
    status code."""
    status = found.number(10)
    if status is None:
        raise MissingField("status_code")
    return ReplyHead(found.text(1) or "", status & _UINT32, found.text(11))
