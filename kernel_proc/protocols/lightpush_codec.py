"""The messages of lightpush: v3 (19/WAKU2-LIGHTPUSH as nwaku and js-waku have it) and the legacy v2beta1.

| v3 | fields |
|---|---|
| LightPushRequest | 1 request_id; 20 optional pubsub_topic; 21 WakuMessage |
| LightPushResponse | 1 request_id; 10 status_code; 11 optional status_desc; 12 optional relay_peer_count |

Legacy: PushRPC{1 request_id; 2 request{1 pubsub_topic; 2 WakuMessage}; 3 response{1 is_success bool;
2 optional info}}.

The codes are those of nwaku and js-waku: 19/WAKU2-LIGHTPUSH says 503 for what they call 505, and has no 420.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from ipc_schema.protobuf import ProtobufError, ProtobufFields, put_bytes, put_text, put_varint
from kernel_proc.protocols.reply_head import put_head, read_head

PROTOCOL: Final = "/vac/waku/lightpush/3.0.0"
LEGACY_PROTOCOL: Final = "/vac/waku/lightpush/2.0.0-beta1"


class PushStatus(IntEnum):
    """status_code of a LightPushResponse."""

    SUCCESS = 200
    BAD_REQUEST = 400
    PAYLOAD_TOO_LARGE = 413
    INVALID_MESSAGE = 420
    UNSUPPORTED_PUBSUB_TOPIC = 421
    TOO_MANY_REQUESTS = 429
    INTERNAL_SERVER_ERROR = 500
    SERVICE_NOT_AVAILABLE = 503
    OUT_OF_RLN_PROOF = 504
    NO_PEERS_TO_RELAY = 505


class PushRequest(NamedTuple):
    """A publish request. `message` is an encoded WakuMessage."""

    request_id: str
    message: bytes
    pubsub_topic: str | None = None


class PushResponse(NamedTuple):
    """A v3 response. `status` is a PushStatus or an unknown number."""

    request_id: str
    status: int
    description: str | None = None
    relay_peers: int | None = None


class LegacyResponse(NamedTuple):
    """A response of the legacy version."""

    request_id: str
    is_success: bool
    info: str | None = None


# --- v3 ---


def encode_request(request: PushRequest) -> bytes:
    out = bytearray()
    put_text(out, 1, request.request_id)
    put_text(out, 20, request.pubsub_topic)
    put_bytes(out, 21, request.message)
    return bytes(out)


def decode_request(body: bytes) -> PushRequest:
    """Decode a LightPushRequest. Raise ProtobufError."""
    found = ProtobufFields(body)
    request_id = found.required_text(1, "request_id")
    return PushRequest(request_id, found.required_blob(21, "message"), found.text(20))


def encode_response(response: PushResponse) -> bytes:
    out = bytearray()
    put_head(out, response.request_id, response.status, response.description)
    put_varint(out, 12, response.relay_peers)
    return bytes(out)


def decode_response(body: bytes) -> PushResponse:
    """Decode a LightPushResponse; a missing request id becomes "". Raise ProtobufError without a status
    code."""
    found = ProtobufFields(body)
    return PushResponse(*read_head(found), found.number(12))


# --- legacy ---


def encode_legacy_request(request: PushRequest) -> bytes:
    inner = bytearray()
    put_text(inner, 1, request.pubsub_topic or "")
    put_bytes(inner, 2, request.message)
    out = bytearray()
    put_text(out, 1, request.request_id)
    put_bytes(out, 2, inner)
    return bytes(out)


def decode_legacy_request(body: bytes) -> PushRequest | None:
    """Decode a PushRPC. Return None if it has no request. Raise ProtobufError."""
    found = ProtobufFields(body)
    request_id = found.required_text(1, "request_id")
    inner = found.blob(2)
    if inner is None:
        return None
    request = ProtobufFields(inner)
    topic = request.required_text(1, "pubsub_topic")
    return PushRequest(request_id, request.required_blob(2, "message"), topic)


def encode_legacy_response(response: LegacyResponse) -> bytes:
    """Encode a PushRPC with a response. is_success is written even if false."""
    inner = bytearray()
    put_varint(inner, 1, response.is_success)
    put_text(inner, 2, response.info)
    out = bytearray()
    put_text(out, 1, response.request_id)
    put_bytes(out, 3, inner)
    return bytes(out)


def decode_legacy_response(body: bytes) -> LegacyResponse:
    """Decode a PushRPC. Raise ProtobufError if it has no response."""
    found = ProtobufFields(body)
    inner = found.blob(3)
    if inner is None:
        raise ProtobufError("response is missing")
    response = ProtobufFields(inner)
    return LegacyResponse(found.text(1) or "", bool(response.number(1)), response.text(2))
