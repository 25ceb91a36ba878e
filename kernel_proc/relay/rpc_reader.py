"""Decode the body of a pubsub RPC (without its length prefix).

Hand-written because this is the hot path: a message costs one slice for `data` and one for `topic`, and
unused fields are not materialised. The rules are those of protobuf: unknown fields are skipped, a known field
with another wire type counts as unknown, the last value of a singular field wins. Anything that is not
protobuf, or claims more bytes than there are, raises `RpcDecodeError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kernel_proc.relay.rpc import Control, IHave, PeerInfo, Prune, RawMessage, Rpc, Subscription

MAX_BACKOFF_S: Final = 3600
"""Upper bound in seconds of a received back-off. The field is a uint64; larger values are capped."""

MAX_PX_PEERS: Final = 16
"""Peers read from one PRUNE; GossipSub v1.1 nodes send at most this many."""


_MAX_ID: Final = 64
_MAX_TOPIC: Final = 1024
"""Bytes of a message id (Waku's have 32) and of a topic's name: the router keeps thousands of a peer."""


class RpcDecodeError(ValueError):
    """The bytes are not a valid pubsub RPC."""


_NOTHING: Final[tuple[Subscription, ...]] = ()
_new_tuple: Final = tuple.__new__  # a named tuple's own constructor is interpreted in the compiled build, too


def decode_rpc(buffer: bytes, start: int = 0, end: int | None = None) -> Rpc:
    """Decode the RPC body in `buffer[start:end]`. Raise RpcDecodeError, and nothing else, for any invalid
    bytes."""
    if end is None:
        end = len(buffer)
    subscriptions: list[Subscription] | None = None
    messages: list[RawMessage] = []
    control: Control | None = None
    pos = start
    try:
        while pos < end:
            tag = buffer[pos]
            if tag == 0x12:  # publish
                # Inline the varint for the two common lengths (below 128 B and below 16 KiB).
                size = buffer[pos + 1]
                pos += 2
                if size > 0x7F:
                    high = buffer[pos]
                    if high < 0x80:
                        size = (size & 0x7F) | (high << 7)
                        pos += 1
                    else:
                        size, pos = _varint(buffer, pos - 1, end)
                stop = pos + size
                if stop > end:
                    raise RpcDecodeError("message exceeds its RPC")
                if size:  # an empty message has no topic
                    messages.append(_decode_message(buffer, pos, stop))
                pos = stop
                continue
            if tag in (0x0A, 0x1A):
                pos, stop = _span(buffer, pos + 1, end)
                if tag == 0x0A:
                    if subscriptions is None:
                        subscriptions = []
                    _decode_subscription(buffer, pos, stop, subscriptions)
                else:
                    if control is None:
                        control = Control()
                    _decode_control(buffer, pos, stop, control)
                pos = stop
                continue
            pos = _skip_field(buffer, pos, end)
    except IndexError:
        raise RpcDecodeError("truncated RPC") from None
    return _new_tuple(Rpc, (_NOTHING if subscriptions is None else subscriptions, messages, control))


def _decode_message(buffer: bytes, pos: int, end: int) -> RawMessage:
    topic = data = b""
    signed = False
    while pos < end:
        tag = buffer[pos]
        # from 1, data 2, seqno 3, topic 4, signature 5, key 6: all length-delimited
        if tag & 7 == 2 and 0x0A <= tag <= 0x32:
            size = buffer[pos + 1]
            pos += 2
            if size > 0x7F:
                high = buffer[pos]
                if high < 0x80:
                    size = (size & 0x7F) | (high << 7)
                    pos += 1
                else:
                    size, pos = _varint(buffer, pos - 1, end)
            stop = pos + size
            if stop > end:
                raise RpcDecodeError("field exceeds its message")
            if tag == 0x12:
                data = buffer[pos:stop]
            elif tag == 0x22:
                topic = buffer[pos:stop]
            elif size:  # an empty field counts as absent
                signed = True
            pos = stop
        else:
            pos = _skip_field(buffer, pos, end)
    return _new_tuple(RawMessage, (topic, data, signed))


def _decode_subscription(buffer: bytes, pos: int, end: int, out: list[Subscription]) -> None:
    subscribe = False
    topic: str | None = None
    while pos < end:
        tag = buffer[pos]
        if tag == 0x08:
            value, pos = _varint(buffer, pos + 1, end)
            subscribe = value != 0
        elif tag == 0x12:
            topic, pos = _text(buffer, pos + 1, end)
        else:
            pos = _skip_field(buffer, pos, end)
    if topic:
        out.append(Subscription(subscribe, topic))


def _decode_control(buffer: bytes, pos: int, end: int, control: Control) -> None:
    while pos < end:
        tag = buffer[pos]
        if tag & 7 != 2 or not 0x0A <= tag <= 0x2A:
            pos = _skip_field(buffer, pos, end)
            continue
        pos, stop = _span(buffer, pos + 1, end)
        if tag == 0x0A:
            topic, ids = _decode_ids(buffer, pos, stop, topic_tag=0x0A, id_tag=0x12)
            if topic and ids:
                control.ihave.append(IHave(topic, ids))
        elif tag == 0x12:
            control.iwant.extend(_decode_ids(buffer, pos, stop, topic_tag=0, id_tag=0x0A)[1])
        elif tag == 0x1A:
            topic, _ = _decode_ids(buffer, pos, stop, topic_tag=0x0A, id_tag=0)
            if topic:
                # Several control entries of one kind may follow each other; protobuf concatenates repeated
                # fields.
                control.graft.append(topic)
        elif tag == 0x22:
            _decode_prune(buffer, pos, stop, control)
        else:
            control.idontwant.extend(_decode_ids(buffer, pos, stop, topic_tag=0, id_tag=0x0A)[1])
        pos = stop


def _decode_ids(
    buffer: bytes, pos: int, end: int, *, topic_tag: int, id_tag: int
) -> tuple[str, Sequence[bytes]]:
    """Decode what IHAVE, IWANT, GRAFT and IDONTWANT have in common: an optional topic and repeated ids."""
    topic = ""
    ids: list[bytes] = []
    while pos < end:
        tag = buffer[pos]
        if tag == id_tag and tag:
            pos, stop = _span(buffer, pos + 1, end)
            if stop - pos > _MAX_ID:
                raise RpcDecodeError(f"message id of {stop - pos} bytes")
            ids.append(buffer[pos:stop])
            pos = stop
        elif tag == topic_tag and tag:
            topic, pos = _text(buffer, pos + 1, end)
        else:
            pos = _skip_field(buffer, pos, end)
    return topic, ids


def _decode_prune(buffer: bytes, pos: int, end: int, control: Control) -> None:
    topic = ""
    backoff: int | None = None
    peers: list[PeerInfo] = []
    while pos < end:
        tag = buffer[pos]
        if tag == 0x0A:
            topic, pos = _text(buffer, pos + 1, end)
        elif tag == 0x12:
            pos, stop = _span(buffer, pos + 1, end)
            if len(peers) < MAX_PX_PEERS:
                info = _decode_peer_info(buffer, pos, stop)
                if info.peer_id:
                    peers.append(info)
            pos = stop
        elif tag == 0x18:
            value, pos = _varint(buffer, pos + 1, end)
            backoff = min(value, MAX_BACKOFF_S)
        else:
            pos = _skip_field(buffer, pos, end)
    if topic:
        control.prune.append(Prune(topic, backoff, tuple(peers)))


def _decode_peer_info(buffer: bytes, pos: int, end: int) -> PeerInfo:
    peer_id = signed_record = b""
    while pos < end:
        tag = buffer[pos]
        if tag in (0x0A, 0x12):
            pos, stop = _span(buffer, pos + 1, end)
            if tag == 0x0A:
                peer_id = buffer[pos:stop]
            else:
                signed_record = buffer[pos:stop]
            pos = stop
        else:
            pos = _skip_field(buffer, pos, end)
    return PeerInfo(peer_id, signed_record)


def _varint(buffer: bytes, pos: int, end: int) -> tuple[int, int]:
    """Decode an unsigned 64-bit varint at `pos`. Return (value, position after it)."""
    value = shift = 0
    while pos < end:
        byte = buffer[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, pos
        shift += 7
        if shift > 63:
            raise RpcDecodeError("varint longer than 10 bytes")
    raise RpcDecodeError("truncated varint")


def _span(buffer: bytes, pos: int, end: int) -> tuple[int, int]:
    """Return the (start, stop) of the length-delimited value whose length prefix is at `pos`."""
    size, pos = _varint(buffer, pos, end)
    stop = pos + size
    if stop > end:
        raise RpcDecodeError("field exceeds its container")
    return pos, stop


def _text(buffer: bytes, pos: int, end: int) -> tuple[str, int]:
    pos, stop = _span(buffer, pos, end)
    if stop - pos > _MAX_TOPIC:
        raise RpcDecodeError(f"topic of {stop - pos} bytes")
    try:
        return buffer[pos:stop].decode(), stop
    except UnicodeDecodeError:
        raise RpcDecodeError("topic is not UTF-8") from None


def _skip_field(buffer: bytes, pos: int, end: int) -> int:
    """Return the position after the field whose tag is at `pos`."""
    tag, pos = _varint(buffer, pos, end)
    wire_type = tag & 7
    if not 0 < tag >> 3 < 1 << 29:
        raise RpcDecodeError(f"field number {tag >> 3}")
    if wire_type == 0:
        return _varint(buffer, pos, end)[1]
    if wire_type == 2:
        return _span(buffer, pos, end)[1]
    if wire_type == 1:
        pos += 8
    elif wire_type == 5:
        pos += 4
    else:  # groups (3, 4) were deprecated long before this protocol existed
        raise RpcDecodeError(f"wire type {wire_type}")
    if pos > end:
        raise RpcDecodeError("field exceeds its container")
    return pos
