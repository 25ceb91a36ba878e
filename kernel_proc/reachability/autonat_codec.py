"""Messages of AutoNAT 1.0.0. Pure. Spec: libp2p/specs/autonat/autonat-v1.md."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ipc_schema.protobuf import ProtobufError, ProtobufFields, put_bytes, put_text, put_varint
from kernel_proc.p2p import addresses, peer_ids
from kernel_proc.p2p.api import PeerIdText

PROTOCOL: Final = "/libp2p/autonat/1.0.0"
MAX_MESSAGE: Final = 4096
"""As go-libp2p and nim-libp2p limit it."""
_DIAL, _DIAL_RESPONSE = 0, 1


class DialStatus(IntEnum):
    """The outcome of a dial-back."""

    OK = 0
    DIAL_ERROR = 100
    DIAL_REFUSED = 101
    BAD_REQUEST = 200
    INTERNAL_ERROR = 300


@dataclass(frozen=True, slots=True)
class DialRequest:
    """Which peer to dial, at which multiaddrs; those that we cannot read are left out."""

    peer_id: PeerIdText | None
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DialResponse:
    """The outcome of a request. An unknown status counts as an internal error."""

    status: DialStatus
    text: str = ""
    address: str | None = None
    """Where the dial succeeded."""


def encode_request(peer_id: PeerIdText, own_addresses: Iterable[str]) -> bytes:
    """Encode a request to be dialled."""
    peer, dial, out = bytearray(), bytearray(), bytearray()
    put_bytes(peer, 1, peer_ids.to_bytes(peer_id))
    for address in own_addresses:
        put_bytes(peer, 2, addresses.to_bytes(address))
    put_bytes(dial, 1, peer)
    put_varint(out, 1, _DIAL)
    put_bytes(out, 2, dial)
    return bytes(out)


def decode_request(body: bytes) -> DialRequest:
    """Decode a request. Raise ProtobufError."""
    message = ProtobufFields(body)
    # autonat-v1, RPC messages: Message{1 type; 2 dial{1 peer{1 id; 2 addrs}}; 3 dialResponse}.
    peer = ProtobufFields(ProtobufFields(message.blob(2) or b"").blob(1) or b"")
    if message.number(1) != _DIAL:
        raise ProtobufError("not a dial request")
    raw = peer.blob(1)
    known = map(addresses.from_bytes, peer.blobs(2))
    return DialRequest(
        peer_ids.from_bytes(raw) if raw else None, tuple(address for address in known if address is not None)
    )


def encode_response(response: DialResponse) -> bytes:
    """Encode a response."""
    inner, out = bytearray(), bytearray()
    put_varint(inner, 1, response.status)
    put_text(inner, 2, response.text or None)
    if response.address is not None:
        put_bytes(inner, 3, addresses.to_bytes(response.address))
    put_varint(out, 1, _DIAL_RESPONSE)
    put_bytes(out, 3, inner)
    return bytes(out)


def decode_response(body: bytes) -> DialResponse:
    """Decode a response. Raise ProtobufError."""
    message = ProtobufFields(body)
    inner = message.blob(3)
    if message.number(1) != _DIAL_RESPONSE or inner is None:
        raise ProtobufError("not a dial response")
    # autonat-v1: DialResponse{1 status; 2 statusText; 3 addr}; an absent status is OK.
    read = ProtobufFields(inner)
    number, raw = read.number(1) or 0, read.blob(3)
    try:
        status = DialStatus(number)
    except ValueError:
        status = DialStatus.INTERNAL_ERROR
    return DialResponse(status, read.text(2) or "", addresses.from_bytes(raw) if raw else None)
