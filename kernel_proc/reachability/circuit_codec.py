"""Messages of circuit relay 2.0, as its clients need them. Pure. Spec: libp2p/specs/relay/circuit-v2.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ipc_schema.protobuf import ProtobufError, ProtobufFields, put_bytes, put_varint
from kernel_proc.p2p import peer_ids
from kernel_proc.p2p.api import PeerIdText

HOP: Final = "/libp2p/circuit/relay/0.2.0/hop"
STOP: Final = "/libp2p/circuit/relay/0.2.0/stop"
MAX_MESSAGE: Final = 4096
"""As go-libp2p limits it."""

OK: Final = 100
_STATUS: Final = {
    OK: "ok",
    200: "reservation refused",
    201: "resource limit exceeded",
    202: "permission denied",
    203: "connection failed",
    204: "no reservation",
    400: "malformed message",
    401: "unexpected message",
}
# circuit-v2, Protobuf:
# HopMessage{1 type; 2 peer; 3 reservation{1 expire; 2 addrs; 3 voucher}; 4 limit; 5 status}
# StopMessage{1 type; 2 peer; 3 limit; 4 status}
_RESERVE, _HOP_CONNECT, _HOP_STATUS = 0, 1, 2
_STOP_CONNECT, _STOP_STATUS = 0, 1


@dataclass(frozen=True, slots=True)
class HopReply:
    """A relay's reply. `expire`: when a reservation ends, in seconds since 1970.

    The addresses that it may name for itself are not read: the one at which we dialled it works, and others
    could be anyone's.
    """

    status: int
    expire: int = 0


def status_name(status: int) -> str:
    return _STATUS.get(status, f"status {status}")


def _peer(peer_id: PeerIdText) -> bytearray:
    out = bytearray()
    put_bytes(out, 1, peer_ids.to_bytes(peer_id))
    return out


def encode_reserve() -> bytes:
    """Encode a request for a reservation."""
    out = bytearray()
    put_varint(out, 1, _RESERVE)
    return bytes(out)


def encode_hop_connect(peer_id: PeerIdText) -> bytes:
    """Encode a request for a circuit to a peer."""
    out = bytearray()
    put_varint(out, 1, _HOP_CONNECT)
    put_bytes(out, 2, _peer(peer_id))
    return bytes(out)


def decode_hop_reply(body: bytes) -> HopReply:
    """Decode a relay's reply. Raise ProtobufError."""
    message = ProtobufFields(body)
    status = message.number(5)
    if message.number(1) != _HOP_STATUS or status is None:
        raise ProtobufError("not a status of a relay")
    reservation = ProtobufFields(message.blob(3) or b"")
    return HopReply(status, reservation.number(1) or 0)


def encode_stop_connect(peer_id: PeerIdText) -> bytes:
    """Encode a relay's announcement of a circuit from a peer."""
    out = bytearray()
    put_varint(out, 1, _STOP_CONNECT)
    put_bytes(out, 2, _peer(peer_id))
    return bytes(out)


def decode_stop_connect(body: bytes) -> PeerIdText:
    """Return the peer that a circuit comes from. Raise ProtobufError."""
    message = ProtobufFields(body)
    peer_id = peer_ids.from_bytes(ProtobufFields(message.blob(2) or b"").blob(1) or b"")
    if message.number(1) != _STOP_CONNECT or peer_id is None:
        raise ProtobufError("not a circuit from a peer")
    return peer_id


def encode_stop_status(status: int) -> bytes:
    """Encode the acceptance of a circuit, or the reason against it."""
    out = bytearray()
    put_varint(out, 1, _STOP_STATUS)
    put_varint(out, 4, status)
    return bytes(out)
