"""The messages of 12/WAKU2-FILTER, as nwaku and js-waku read and write them. Pure.

| message | fields |
|---|---|
| FilterSubscribeRequest | 1 request_id; 2 type; 10 optional pubsub_topic; 11 repeated content_topics |
| FilterSubscribeResponse | 1 request_id; 10 status_code; 11 optional status_desc |
| MessagePush | 1 waku_message; 2 optional pubsub_topic |

What nwaku insists on is always written: the request id (an empty one too), the type, the status code, and
the pubsub topic of a push, which js-waku also drops a push without.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from ipc_schema.message import MessageDecodeError, WakuMessage, decode_message
from ipc_schema.protobuf import ProtobufError, ProtobufFields, put_bytes, put_text, put_varint
from kernel_proc.protocols.reply_head import put_head, read_head

SUBSCRIBE_PROTOCOL: Final = "/vac/waku/filter-subscribe/2.0.0-beta1"
PUSH_PROTOCOL: Final = "/vac/waku/filter-push/2.0.0-beta1"
MAX_CONTENT_TOPICS: Final = 100
"""Maximum per request (nwaku, go-waku)."""


class RequestType(IntEnum):
    """FilterSubscribeType of 12/WAKU2-FILTER. A request without a type is a ping."""

    PING = 0
    SUBSCRIBE = 1
    UNSUBSCRIBE = 2
    UNSUBSCRIBE_ALL = 3


class Status(IntEnum):
    """Status codes that service nodes send. 12/WAKU2-FILTER counts every 2xx as success."""

    OK = 200
    BAD_REQUEST = 400
    NOT_FOUND = 404
    TOO_MANY_REQUESTS = 429
    SERVICE_UNAVAILABLE = 503


class FilterRequest(NamedTuple):
    """A filter-subscribe request. `kind` is a RequestType, or an unknown number from the wire."""

    request_id: str
    kind: int
    pubsub_topic: str | None = None
    content_topics: tuple[str, ...] = ()


class FilterResponse(NamedTuple):
    """A filter-subscribe response."""

    request_id: str
    status: int
    description: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the request succeeded (2xx)."""
        return 200 <= self.status < 300


class Push(NamedTuple):
    """A pushed message. `pubsub_topic` is None if the service node omitted it."""

    message: WakuMessage
    pubsub_topic: str | None
    size: int
    """Encoded size of the message in bytes."""


def encode_request(request: FilterRequest) -> bytes:
    out = bytearray()
    put_text(out, 1, request.request_id)
    put_varint(out, 2, request.kind)
    put_text(out, 10, request.pubsub_topic)
    for topic in request.content_topics:
        put_text(out, 11, topic)
    return bytes(out)


def decode_request(body: bytes) -> FilterRequest:
    """Decode a FilterSubscribeRequest. Raise ProtobufError, or MissingField without a request id."""
    found = ProtobufFields(body)
    return FilterRequest(
        found.required_text(1, "request_id"), found.number(2) or 0, found.text(10), found.texts(11)
    )


def encode_response(response: FilterResponse) -> bytes:
    out = bytearray()
    put_head(out, *response)
    return bytes(out)


def decode_response(body: bytes) -> FilterResponse:
    """Decode a FilterSubscribeResponse. Raise ProtobufError, or MissingField without a status code."""
    return FilterResponse(*read_head(ProtobufFields(body)))


def encode_push(message: bytes, pubsub_topic: str) -> bytes:
    """Encode a MessagePush of an encoded WakuMessage."""
    out = bytearray()
    put_bytes(out, 1, message)
    put_text(out, 2, pubsub_topic)
    return bytes(out)


def decode_push(body: bytes) -> Push:
    """Decode a MessagePush. Raise ProtobufError, also if the inner message does not decode."""
    found = ProtobufFields(body)
    data = found.required_blob(1, "waku_message")
    try:
        message = decode_message(data)
    except MessageDecodeError as error:
        raise ProtobufError(str(error)) from None
    return Push(message, found.text(2), len(data))
