"""Wire codec of the pubsub RPC (libp2p pubsub spec, GossipSub v1.1 and the IDONTWANT of v1.2).

One RPC on a stream is `unsigned varint length ‖ body`. The functions here read and write the *body* with
`decode_rpc`, and write whole frames (length included) with the `encode_*` functions, so that one encoded
message can be shared, as the same bytes object, by the send queues of all peers.

Written by hand because the reader spends its life here: a message costs one slice for `data` and one for
`topic`, and nothing is built for fields that nobody reads. The rules are those of protobuf: unknown fields
are skipped, a known field with another wire type counts as unknown, the last of a repeated singular field
wins. Anything that is not protobuf, or claims more bytes than there are, is `RpcDecodeError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

__all__ = [
    "Control",
    "IHave",
    "PeerInfo",
    "Prune",
    "RawMessage",
    "Rpc",
    "RpcDecodeError",
    "Subscription",
    "decode_rpc",
    "encode_control",
    "encode_message",
    "encode_subscriptions",
    "encode_varint",
    "fits_rpc",
    "message_rpc_size",
]

MAX_BACKOFF_S = 3600
"""A PRUNE may ask for any uint64 of seconds; more than an hour is read as an hour."""

MAX_PX_PEERS = 16
"""Peers read of one PRUNE (what a GossipSub v1.1 node sends at most)."""


class RpcDecodeError(ValueError):
    """The bytes are not a pubsub RPC."""


class Subscription(NamedTuple):
    subscribe: bool
    topic: str


class RawMessage(NamedTuple):
    """One published message as it stood on the wire."""

    topic: bytes
    data: bytes
    signed: bool
    """It carried `from`, `seqno`, `signature` or `key`, which StrictNoSign forbids."""


class PeerInfo(NamedTuple):
    """A peer named by a PRUNE (peer exchange): binary peer id and, possibly empty, its signed record."""

    peer_id: bytes
    signed_record: bytes


class IHave(NamedTuple):
    topic: str
    message_ids: Sequence[bytes]


class Prune(NamedTuple):
    topic: str
    backoff: int | None
    """Seconds; None when the field was absent."""
    peers: tuple[PeerInfo, ...] = ()


class Control:
    """The control part of one RPC, to be read or to be filled and sent."""

    __slots__ = ("graft", "idontwant", "ihave", "iwant", "prune")

    def __init__(self) -> None:
        self.ihave: list[IHave] = []
        self.iwant: list[bytes] = []
        self.graft: list[str] = []
        self.prune: list[Prune] = []
        self.idontwant: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self.graft or self.prune or self.ihave or self.iwant or self.idontwant)


class Rpc(NamedTuple):
    subscriptions: Sequence[Subscription]
    messages: Sequence[RawMessage]
    control: Control | None


_NOTHING: tuple[Subscription, ...] = ()


# -- decoding ---------------------------------------------------------------------------------------------


def decode_rpc(buffer: bytes, start: int = 0, end: int | None = None) -> Rpc:
    """Decode the RPC body in `buffer[start:end]`. Raises RpcDecodeError, and nothing else, for any bytes."""
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
                # The length is read in place for the two sizes that matter (below 128 B, below 16 KiB).
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
                if size:  # an empty one has no topic and goes nowhere
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
        raise RpcDecodeError("RPC is cut short") from None
    return Rpc(_NOTHING if subscriptions is None else subscriptions, messages, control)


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
            elif size:  # an empty tag says nothing and is taken as absent
                signed = True
            pos = stop
        else:
            pos = _skip_field(buffer, pos, end)
    return RawMessage(topic, data, signed)


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
                control.graft.append(topic)
        elif tag == 0x22:
            _decode_prune(buffer, pos, stop, control)
        else:
            control.idontwant.extend(_decode_ids(buffer, pos, stop, topic_tag=0, id_tag=0x0A)[1])
        pos = stop


def _decode_ids(
    buffer: bytes, pos: int, end: int, *, topic_tag: int, id_tag: int
) -> tuple[str, Sequence[bytes]]:
    """The shape that IHAVE, IWANT, GRAFT and IDONTWANT share: perhaps a topic, perhaps repeated ids."""
    topic = ""
    ids: list[bytes] = []
    while pos < end:
        tag = buffer[pos]
        if tag == id_tag and tag:
            pos, stop = _span(buffer, pos + 1, end)
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
    """An unsigned 64-bit varint at `pos`: (value, position after it)."""
    value = shift = 0
    while pos < end:
        byte = buffer[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, pos
        shift += 7
        if shift > 63:
            raise RpcDecodeError("varint longer than ten bytes")
    raise RpcDecodeError("varint is cut short")


def _span(buffer: bytes, pos: int, end: int) -> tuple[int, int]:
    """The (start, stop) of the length-delimited value whose length stands at `pos`."""
    size, pos = _varint(buffer, pos, end)
    stop = pos + size
    if stop > end:
        raise RpcDecodeError("field exceeds its container")
    return pos, stop


def _text(buffer: bytes, pos: int, end: int) -> tuple[str, int]:
    pos, stop = _span(buffer, pos, end)
    try:
        return buffer[pos:stop].decode(), stop
    except UnicodeDecodeError:
        raise RpcDecodeError("topic is not UTF-8") from None


def _skip_field(buffer: bytes, pos: int, end: int) -> int:
    """Position after the field whose tag stands at `pos`."""
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
    else:  # groups (3, 4) left protobuf long before this protocol existed
        raise RpcDecodeError(f"wire type {wire_type}")
    if pos > end:
        raise RpcDecodeError("field exceeds its container")
    return pos


# -- encoding ---------------------------------------------------------------------------------------------


def encode_varint(value: int) -> bytes:
    """Unsigned varint of a non-negative integer."""
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint_size(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)


def _field(tag: int, value: bytes) -> bytes:
    return bytes((tag,)) + encode_varint(len(value)) + value


def message_rpc_size(topic: bytes, data_size: int) -> int:
    """Size of the RPC body (without its length prefix) that publishes `data_size` bytes on `topic`."""
    inner = 1 + _varint_size(data_size) + data_size + 1 + _varint_size(len(topic)) + len(topic)
    return 1 + _varint_size(inner) + inner


_MOST_OVERHEAD: Final = 24
"""Bytes around data and topic in a publishing RPC, at most: tags, and lengths of up to 5 bytes."""


def fits_rpc(topic: bytes, data_size: int, limit: int) -> bool:
    """Whether the RPC body that publishes `data_size` bytes on `topic` has at most `limit` bytes."""
    if data_size + len(topic) + _MOST_OVERHEAD <= limit:
        return True  # by far the most: the exact sum is asked near the limit only
    return message_rpc_size(topic, data_size) <= limit


@lru_cache(maxsize=1024)
def _message_head(topic_size: int, data_size: int) -> bytes:
    """Everything before the data of a publishing RPC: few sizes recur often."""
    size = encode_varint(data_size)
    tail = 1 + _varint_size(topic_size) + topic_size
    inner = encode_varint(1 + len(size) + data_size + tail)
    body = encode_varint(2 + len(inner) + len(size) + data_size + tail)
    return b"".join((body, b"\x12", inner, b"\x12", size))


@lru_cache(maxsize=256)
def _message_tail(topic: bytes) -> bytes:
    return b"\x22" + encode_varint(len(topic)) + topic


def encode_message(topic: bytes, data: bytes) -> bytes:
    """The frame of an RPC that publishes one message, with nothing but data and topic (StrictNoSign)."""
    return b"".join((_message_head(len(topic), len(data)), data, _message_tail(topic)))


def encode_subscriptions(subscriptions: Iterable[Subscription], limit: int) -> list[bytes]:
    """Frames that announce the subscriptions, none with a body above `limit` bytes."""
    return _pack((_encode_subscription(entry) for entry in subscriptions), limit)


def _encode_subscription(entry: Subscription) -> bytes:
    value = b"\x08\x01" if entry.subscribe else b"\x08\x00"
    value += _field(0x12, entry.topic.encode())
    if entry.subscribe:
        value += b"\x18\x00\x20\x00"  # the partial-message flags, off, as nwaku writes them
    return _field(0x0A, value)


def encode_control(control: Control, limit: int) -> list[bytes]:
    """Frames that carry `control`, none with a body above `limit` bytes: long id lists are split."""
    inner_limit = limit - 1 - _varint_size(limit)
    entries: list[bytes] = [_field(0x1A, _field(0x0A, topic.encode())) for topic in control.graft]
    entries += [_encode_prune(prune, inner_limit) for prune in control.prune]
    for ids in _chunks(control.iwant, inner_limit):
        entries.append(_field(0x12, b"".join(_field(0x0A, i) for i in ids)))
    for ids in _chunks(control.idontwant, inner_limit):
        entries.append(_field(0x2A, b"".join(_field(0x0A, i) for i in ids)))
    for ihave in control.ihave:
        topic = _field(0x0A, ihave.topic.encode())
        for ids in _chunks(ihave.message_ids, inner_limit - len(topic)):
            entries.append(_field(0x0A, topic + b"".join(_field(0x12, i) for i in ids)))
    frames = []
    for group in _groups(entries, inner_limit):
        body = _field(0x1A, group)
        frames.append(encode_varint(len(body)) + body)
    return frames


def _encode_prune(prune: Prune, limit: int) -> bytes:
    value = _field(0x0A, prune.topic.encode())
    tail = b"" if prune.backoff is None else b"\x18" + encode_varint(prune.backoff)
    for peer in prune.peers:
        record = _field(0x0A, peer.peer_id)
        if peer.signed_record:
            record += _field(0x12, peer.signed_record)
        field = _field(0x12, record)
        if len(value) + len(field) + len(tail) + 8 > limit:
            break  # peers are an offer; the PRUNE itself must go out
        value += field
    return _field(0x22, value + tail)


def _chunks(ids: Sequence[bytes], limit: int) -> Iterable[Sequence[bytes]]:
    """Runs of ids whose encoding, with the header of the entry around them, stays within `limit`."""
    room = limit - 8
    start = used = 0
    for index, message_id in enumerate(ids):
        size = 1 + _varint_size(len(message_id)) + len(message_id)
        if used + size > room and index > start:
            yield ids[start:index]
            start, used = index, 0
        used += size
    if start < len(ids):
        yield ids[start:]


def _groups(entries: Iterable[bytes], limit: int) -> Iterable[bytes]:
    """Entries joined into groups of at most `limit` bytes; one that can never fit is left out."""
    group: list[bytes] = []
    used = 0
    for entry in entries:
        if len(entry) > limit:
            continue
        if used + len(entry) > limit:
            yield b"".join(group)
            group, used = [], 0
        group.append(entry)
        used += len(entry)
    if group:
        yield b"".join(group)


def _pack(entries: Iterable[bytes], limit: int) -> list[bytes]:
    return [encode_varint(len(body)) + body for body in _groups(entries, limit)]
