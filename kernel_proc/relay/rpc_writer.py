"""Encode pubsub RPCs as whole frames: `unsigned varint length ‖ body`.

The send queues of all peers can share one encoded message as the same bytes object.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from kernel_proc.p2p.varint import encode as encode_varint
from kernel_proc.relay.rpc import Control, Prune, Subscription

MAX_CONTROL: Final = 16_384
MAX_SUBSCRIPTIONS: Final = 100
"""Limits of one RPC: bytes of control and number of subscriptions.

rust-libp2p's gossipsub (since 0.50) ends a stream that exceeds them. Splitting into several RPCs loses
nothing.
"""


def _varint_size(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)


def _field(tag: int, value: bytes) -> bytes:
    return bytes((tag,)) + encode_varint(len(value)) + value


def message_rpc_size(topic: bytes, data_size: int) -> int:
    """Return the size of the RPC body (without length prefix) that publishes `data_size` bytes on `topic`."""
    inner = 1 + _varint_size(data_size) + data_size + 1 + _varint_size(len(topic)) + len(topic)
    return 1 + _varint_size(inner) + inner


_MOST_OVERHEAD: Final = 24
"""Upper bound of the overhead in a publishing RPC: tags, and lengths of up to 5 bytes."""


def fits_rpc(topic: bytes, data_size: int, limit: int) -> bool:
    """Return whether the RPC body that publishes `data_size` bytes on `topic` has at most `limit` bytes."""
    if data_size + len(topic) + _MOST_OVERHEAD <= limit:
        return True  # the common case; compute the exact size near the limit only
    return message_rpc_size(topic, data_size) <= limit


@lru_cache(maxsize=1024)
def _message_head(topic_size: int, data_size: int) -> bytes:
    """Encode everything before the data of a publishing RPC. Cached: few sizes recur often."""
    size = encode_varint(data_size)
    tail = 1 + _varint_size(topic_size) + topic_size
    inner = encode_varint(1 + len(size) + data_size + tail)
    body = encode_varint(2 + len(inner) + len(size) + data_size + tail)
    return b"".join((body, b"\x12", inner, b"\x12", size))


@lru_cache(maxsize=256)
def _message_tail(topic: bytes) -> bytes:
    return b"\x22" + encode_varint(len(topic)) + topic


def encode_message(topic: bytes, data: bytes) -> bytes:
    """Encode an RPC with one message that has only data and topic (StrictNoSign)."""
    return b"".join((_message_head(len(topic), len(data)), data, _message_tail(topic)))


def encode_subscriptions(subscriptions: Iterable[Subscription], limit: int) -> list[bytes]:
    """Encode subscriptions as frames of at most `limit` and `MAX_CONTROL` bytes and `MAX_SUBSCRIPTIONS`
    entries each."""
    entries = (_encode_subscription(entry) for entry in subscriptions)
    bodies = _groups(entries, min(limit, MAX_CONTROL), MAX_SUBSCRIPTIONS)
    return [encode_varint(len(body)) + body for body in bodies]


def _encode_subscription(entry: Subscription) -> bytes:
    value = b"\x08\x01" if entry.subscribe else b"\x08\x00"
    value += _field(0x12, entry.topic.encode())
    if entry.subscribe:
        value += b"\x18\x00\x20\x00"  # partial-message flags (fields 3 and 4), off, as nwaku writes them
    return _field(0x0A, value)


def encode_control(control: Control, limit: int) -> list[bytes]:
    """Encode `control` as frames of at most `limit` and `MAX_CONTROL` bytes each; long id lists are split."""
    limit = min(limit, MAX_CONTROL)
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
            break  # suggestions are optional, the PRUNE itself is not
        value += field
    return _field(0x22, value + tail)


def _chunks(ids: Sequence[bytes], limit: int) -> Iterable[Sequence[bytes]]:
    """Split ids so that each run, with its surrounding entry header, encodes to at most `limit` bytes."""
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


def _groups(entries: Iterable[bytes], limit: int, most: int | None = None) -> Iterable[bytes]:
    """Join entries into groups of at most `limit` bytes and `most` entries. Entries that can never fit are
    dropped."""
    group: list[bytes] = []
    used = 0
    for entry in entries:
        if len(entry) > limit:
            continue
        if used + len(entry) > limit or len(group) == most:
            yield b"".join(group)
            group, used = [], 0
        group.append(entry)
        used += len(entry)
    if group:
        yield b"".join(group)
