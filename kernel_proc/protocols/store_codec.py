"""The messages of store v3 (13/WAKU2-STORE).

| message | fields |
|---|---|
| StoreQueryRequest | 1 request_id; 2 include_data bool; 10 optional pubsub_topic; 11 repeated content_topics; 12, 13 optional sint64 time_start, time_end; 20 repeated message_hashes; 51 optional pagination_cursor (a hash); 52 pagination_forward bool; 53 optional pagination_limit uint64 |
| StoreQueryResponse | 1 request_id; 10 status_code; 11 status_desc; 20 repeated WakuMessageKeyValue; 51 optional pagination_cursor |
| WakuMessageKeyValue | 1 message_hash; 2 optional WakuMessage; 3 optional pubsub_topic |
"""  # noqa: E501 - rows of a table

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from ipc_schema.protobuf import (
    ProtobufFields,
    put_bytes,
    put_text,
    put_varint,
    put_zigzag,
)
from kernel_proc.protocols.reply_head import put_head, read_head

PROTOCOL: Final = "/vac/waku/store-query/3.0.0"


class StoreStatus(IntEnum):
    """status_code of a StoreQueryResponse. nwaku returns 300 when its archive rejects a query."""

    SUCCESS = 200
    BAD_RESPONSE = 300
    BAD_REQUEST = 400
    TOO_MANY_REQUESTS = 429
    SERVICE_UNAVAILABLE = 503


class StoreRequest(NamedTuple):
    """A query, with the fields of the archive's `HistoryQuery`. Times are nanoseconds since the Unix epoch,
    both inclusive (13/WAKU2-STORE excludes the end, nwaku includes it). All filters given must match."""

    request_id: str
    include_data: bool = False
    pubsub_topic: str | None = None
    content_topics: tuple[str, ...] = ()
    start: int | None = None
    end: int | None = None
    hashes: tuple[bytes, ...] = ()
    cursor: bytes | None = None
    forward: bool = False
    """An absent field means backward, as in nwaku."""
    limit: int | None = None


class KeyValue(NamedTuple):
    """One message of a response. `data` is the encoded WakuMessage."""

    message_hash: bytes | None
    data: bytes | None = None
    pubsub_topic: str | None = None


class StoreResponse(NamedTuple):
    """A response. `status` is a StoreStatus or an unknown number."""

    request_id: str
    status: int
    description: str
    messages: tuple[KeyValue, ...] = ()
    cursor: bytes | None = None


def encode_request(request: StoreRequest) -> bytes:
    """Encode a StoreQueryRequest. The direction is always written: implementations disagree on its
    default."""
    out = bytearray()
    put_text(out, 1, request.request_id)
    put_varint(out, 2, request.include_data)
    put_text(out, 10, request.pubsub_topic)
    for topic in request.content_topics:
        put_text(out, 11, topic)
    put_zigzag(out, 12, request.start)
    put_zigzag(out, 13, request.end)
    for digest in request.hashes:
        put_bytes(out, 20, digest)
    put_bytes(out, 51, request.cursor)
    put_varint(out, 52, request.forward)
    put_varint(out, 53, request.limit)
    return bytes(out)


def decode_request(body: bytes) -> StoreRequest:
    """Decode a StoreQueryRequest. Raise ProtobufError."""
    found = ProtobufFields(body)
    return StoreRequest(
        request_id=found.required_text(1, "request_id"),
        include_data=bool(found.number(2)),
        pubsub_topic=found.text(10),
        content_topics=found.texts(11),
        start=found.signed(12),
        end=found.signed(13),
        hashes=tuple(found.blobs(20)),
        cursor=found.blob(51),
        forward=bool(found.number(52)),
        limit=found.number(53),
    )


def encode_response(response: StoreResponse) -> bytes:
    """Encode a StoreQueryResponse. status_desc is written even if empty: nwaku requires it."""
    out = bytearray()
    put_head(out, response.request_id, response.status, response.description)
    for message in response.messages:
        put_bytes(out, 20, _encode_key_value(message))
    put_bytes(out, 51, response.cursor)
    return bytes(out)


def _encode_key_value(message: KeyValue) -> bytearray:
    out = bytearray()
    put_bytes(out, 1, message.message_hash)
    put_bytes(out, 2, message.data)
    put_text(out, 3, message.pubsub_topic)
    return out


def decode_response(body: bytes) -> StoreResponse:
    """Decode a StoreQueryResponse; a missing id or text becomes "". Raise ProtobufError without a status
    code."""
    found = ProtobufFields(body)
    request_id, status, description = read_head(found)
    messages = tuple(map(_decode_key_value, found.blobs(20)))
    return StoreResponse(request_id, status, description or "", messages, found.blob(51) or None)


def _decode_key_value(body: bytes) -> KeyValue:
    found = ProtobufFields(body)
    return KeyValue(found.blob(1), found.blob(2), found.text(3))
