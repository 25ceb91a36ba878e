"""The payload of reconciliation (`/vac/waku/reconciliation/1.0.0`), as nwaku writes it. Pure.

All numbers are LEB128, timestamps are differences:

| part | |
|---|---|
| pubsub topics | count; each: length, bytes. None: all. The LIP has the cluster here, nwaku does not |
| content topics | the same. The LIP has shards here, nwaku does not |
| lower bound | timestamp of the first range's lower bound; its hash is 0 |
| each range | upper bound, type byte (0 skip, 1 fingerprint, 2 item set), content |
| upper bound | timestamp minus the previous bound's; if that is 0: a byte n and the first n bytes of the hash, up to and with the first one that is not 0 |
| fingerprint | 32 bytes |
| item set | count; each: timestamp minus the previous one's (the first in full), 32 bytes of hash; then a byte 1 if reconciled, else 0 |

No ranges is the single byte 00; whatever is shorter than two bytes means the same, "our topics differ" (an
empty frame) included. The lower bound of a range is the timestamp of the upper bound before it, with hash 0.
"""  # noqa: E501 - rows of a table

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from kernel_proc.p2p.varint import encode as encode_varint
from kernel_proc.protocols.sync.keys import HASH_SIZE, KEY_SIZE, MAX_TIME, SyncKey, hash_of, key_at, time_of

PROTOCOL: Final = "/vac/waku/reconciliation/1.0.0"
NO_RANGES: Final = b"\0"
MAX_TOPICS: Final = 1024
"""Most topics of a list: a cluster has no more shards."""
_MAX_TOPIC_BYTES: Final = 512
_NO_HASH: Final = bytes(HASH_SIZE)


class SyncCodecError(ValueError):
    """The bytes are not a payload of reconciliation."""


class RangeKind(IntEnum):
    """The type byte."""

    SKIP = 0
    FINGERPRINT = 1
    ITEM_SET = 2


class ItemSet(NamedTuple):
    """All messages that the sender has in a range. `reconciled`: it has seen ours already."""

    keys: Sequence[SyncKey]
    reconciled: bool


class SyncRange(NamedTuple):
    """One range. `content`: None, a fingerprint of 32 bytes, or an item set."""

    low: SyncKey
    high: SyncKey
    content: bytes | ItemSet | None = None

    @property
    def kind(self) -> RangeKind:
        """The type byte that goes with the content."""
        if self.content is None:
            return RangeKind.SKIP
        return RangeKind.FINGERPRINT if isinstance(self.content, bytes) else RangeKind.ITEM_SET


class SyncPayload(NamedTuple):
    """One frame. Empty lists of topics mean all; ranges are contiguous and ascend."""

    pubsub_topics: tuple[str, ...] = ()
    content_topics: tuple[str, ...] = ()
    ranges: Sequence[SyncRange] = ()


# --- encoding ---------------------------------------------------------------------------------------------


def encode_payload(payload: SyncPayload) -> bytes:
    """Encode a frame, without its length prefix."""
    if not payload.ranges:
        return NO_RANGES
    out = bytearray()
    for topics in (payload.pubsub_topics, payload.content_topics):
        out += encode_varint(len(topics))
        for topic in topics:
            name = topic.encode()
            out += encode_varint(len(name)) + name
    last = time_of(payload.ranges[0].low)
    out += encode_varint(last)
    for one in payload.ranges:
        time = time_of(one.high)
        out += encode_varint(time - last)
        if time == last:
            out += _partial_hash(hash_of(one.high))
        last = time
        out.append(one.kind)
        if isinstance(one.content, bytes):
            out += one.content
        elif one.content is not None:
            _put_items(out, one.content)
    return bytes(out)


def _partial_hash(digest: bytes) -> bytes:
    """Return the count byte and the hash up to the first byte that is not 0, which all bounds' hashes are
    compared with."""
    size = HASH_SIZE - len(digest.lstrip(b"\0")) + 1
    size = min(size, HASH_SIZE)
    return bytes((size,)) + digest[:size]


def _put_items(out: bytearray, items: ItemSet) -> None:
    out += encode_varint(len(items.keys))
    last = 0
    for key in items.keys:
        time = time_of(key)
        out += encode_varint(time - last)
        out += key[8:]
        last = time
    out.append(items.reconciled)


# --- decoding ---------------------------------------------------------------------------------------------


def decode_payload(frame: bytes) -> SyncPayload:
    """Decode a frame. Raise `SyncCodecError`, whatever the bytes."""
    if len(frame) <= len(NO_RANGES):
        return SyncPayload()
    reader = _Reader(frame)
    pubsub_topics, content_topics = reader.topics(), reader.topics()
    bound = reader.time(0)
    low = key_at(bound)
    ranges = []
    while not reader.ended:
        time = reader.time(bound)
        high = key_at(time)
        if time == bound:
            high = high[:8] + reader.partial_hash()
        content: bytes | ItemSet | None = None
        match reader.byte():
            case RangeKind.SKIP:
                pass
            case RangeKind.FINGERPRINT:
                content = reader.take(HASH_SIZE)
            case RangeKind.ITEM_SET:
                content = reader.items()
            case other:
                raise SyncCodecError(f"range type {other}")
        ranges.append(SyncRange(low, high, content))
        bound, low = time, key_at(time)
    return SyncPayload(pubsub_topics, content_topics, ranges)


class _Reader:
    def __init__(self, frame: bytes) -> None:
        self._frame = frame
        self._at = 0

    @property
    def ended(self) -> bool:
        return self._at == len(self._frame)

    def byte(self) -> int:
        if self.ended:
            raise SyncCodecError("truncated")
        self._at += 1
        return self._frame[self._at - 1]

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._frame):
            raise SyncCodecError("truncated")
        taken = self._frame[self._at : end]
        self._at = end
        return taken

    def number(self) -> int:
        frame, at = self._frame, self._at
        value = shift = 0
        try:
            while True:
                byte = frame[at]
                at += 1
                value |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
                if shift > 63:
                    raise SyncCodecError("number longer than 10 bytes")
        except IndexError:
            raise SyncCodecError("truncated") from None
        self._at = at
        return value

    def time(self, before: int) -> int:
        time = before + self.number()
        if time > MAX_TIME:
            raise SyncCodecError("timestamp above int64")
        return time

    def topics(self) -> tuple[str, ...]:
        count = self.number()
        if count > MAX_TOPICS:
            raise SyncCodecError(f"{count} topics, the maximum is {MAX_TOPICS}")
        return tuple(self._topic() for _ in range(count))

    def _topic(self) -> str:
        size = self.number()
        if size > _MAX_TOPIC_BYTES:
            raise SyncCodecError(f"a topic of {size} bytes")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise SyncCodecError("a topic is not UTF-8") from None

    def partial_hash(self) -> bytes:
        size = self.byte()
        if size > HASH_SIZE:
            raise SyncCodecError(f"{size} bytes of a hash")
        return self.take(size) + _NO_HASH[size:]

    def items(self) -> ItemSet:
        count = self.number()
        if count * (HASH_SIZE + 1) > len(self._frame) - self._at:
            raise SyncCodecError("truncated")
        keys = []
        time = 0
        for _ in range(count):
            time = self.time(time)
            keys.append(time.to_bytes(8, "big") + self.take(HASH_SIZE))
        reconciled = self.byte()
        if reconciled > 1:
            raise SyncCodecError(f"{reconciled} for reconciled")
        assert not keys or len(keys[0]) == KEY_SIZE
        return ItemSet(keys, bool(reconciled))
