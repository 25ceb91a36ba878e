"""The messages of discv5 v5.1 (discv5-wire): a type byte and an RLP list that starts with the request id.

Topic messages are not used by Waku and count as unknown.
"""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple

from kernel_proc.discovery import rlp
from kernel_proc.discovery.discv5.endpoint import UdpEndpoint

MAX_REQUEST_ID: Final = 8
MAX_DISTANCES: Final = 257
"""There are no more distinct distances."""
MAX_RECORDS: Final = 20
"""Upper bound: a packet of 1280 bytes holds eleven of the smallest records (110 bytes)."""


class Discv5MessageError(ValueError):
    """The bytes are not a discv5 message."""


class Ping(NamedTuple):
    """Liveness check, with the sequence number of the sender's record."""

    request_id: bytes
    record_seq: int


class Pong(NamedTuple):
    """Response to a PING, with the endpoint at which the responder sees us."""

    request_id: bytes
    record_seq: int
    observed: UdpEndpoint


class FindNode(NamedTuple):
    """Request for nodes at these distances from the recipient. Distance 0 requests its own record."""

    request_id: bytes
    distances: tuple[int, ...]


class Nodes(NamedTuple):
    """One of `total` response messages. Records are unverified RLP."""

    request_id: bytes
    total: int
    records: tuple[bytes, ...]


class TalkRequest(NamedTuple):
    """Request in an application protocol."""

    request_id: bytes
    protocol: bytes
    payload: bytes


class TalkResponse(NamedTuple):
    """Response to a TALKREQ; empty if the protocol is not supported."""

    request_id: bytes
    payload: bytes


Request = Ping | FindNode | TalkRequest
Response = Pong | Nodes | TalkResponse
Message = Request | Response

_PING, _PONG, _FINDNODE, _NODES, _TALKREQ, _TALKRESP = range(1, 7)


def encode(message: Message) -> bytes:
    request_id = rlp.encode(message.request_id)
    match message:
        case Ping(_, seq):
            kind, rest = _PING, [rlp.encode(seq)]
        case Pong(_, seq, (_, port) as observed):
            kind, rest = _PONG, [rlp.encode(seq), rlp.encode(observed.packed), rlp.encode(port)]
        case FindNode(_, distances):
            kind, rest = _FINDNODE, [rlp.encode(distances)]
        case Nodes(_, total, records):
            kind, rest = _NODES, [rlp.encode(total), rlp.encode_list(records)]
        case TalkRequest(_, protocol, payload):
            kind, rest = _TALKREQ, [rlp.encode(protocol), rlp.encode(payload)]
        case TalkResponse(_, payload):
            kind, rest = _TALKRESP, [rlp.encode(payload)]
    # discv5-wire, Protocol Messages: message-type, then the RLP list of request-id and the other fields.
    return bytes((kind,)) + rlp.encode_list([request_id, *rest])


def decode(plaintext: bytes) -> Message:
    """Decode a message. Raise Discv5MessageError."""
    if not plaintext:
        raise Discv5MessageError("empty")
    try:
        fields = rlp.read_list(plaintext[1:], 4)
        return _decode(plaintext[0], fields)
    except rlp.RlpError as error:
        raise Discv5MessageError(str(error)) from None


_FIELDS: Final = {_PING: 2, _PONG: 4, _FINDNODE: 2, _NODES: 3, _TALKREQ: 3, _TALKRESP: 2}


def _decode(kind: int, fields: list[rlp.Item]) -> Message:
    count = _FIELDS.get(kind)
    if count is None:
        raise Discv5MessageError(f"unknown type {kind}")
    if len(fields) != count:
        raise Discv5MessageError(f"{len(fields)} fields instead of {count}")
    request_id = _bytes(fields[0])
    if len(request_id) > MAX_REQUEST_ID:
        raise Discv5MessageError(f"request id of {len(request_id)} bytes")
    match kind:
        case 1:
            return Ping(request_id, rlp.to_int(fields[1], 8))
        case 2:
            # discv5-wire, PONG: our IP (4 or 16 bytes) and port, as the node sees them.
            observed = UdpEndpoint.of(_ip(_bytes(fields[2])), rlp.to_int(fields[3], 2))
            return Pong(request_id, rlp.to_int(fields[1], 8), observed)
        case 3:
            distances = tuple(rlp.to_int(item, 2) for item in _list(fields[1], MAX_DISTANCES))
            if any(distance > 256 for distance in distances):
                raise Discv5MessageError("distance above 256")
            return FindNode(request_id, distances)
        case 4:
            records = _list(fields[2], MAX_RECORDS)
            if not all(record.is_list for record in records):
                raise Discv5MessageError("record is not a list")
            return Nodes(request_id, rlp.to_int(fields[1], 8), tuple(record.raw for record in records))
        case 5:
            return TalkRequest(request_id, _bytes(fields[1]), _bytes(fields[2]))
        case _:
            return TalkResponse(request_id, _bytes(fields[1]))


def _bytes(item: rlp.Item) -> bytes:
    if item.is_list:
        raise Discv5MessageError("list instead of bytes")
    return item.content


def _list(item: rlp.Item, limit: int) -> list[rlp.Item]:
    if not item.is_list:
        raise Discv5MessageError("bytes instead of a list")
    return rlp.items(item.content, limit)


def _ip(packed: bytes) -> str:
    if len(packed) not in (4, 16):
        raise Discv5MessageError(f"IP address of {len(packed)} bytes")
    return str(ipaddress.ip_address(packed))
