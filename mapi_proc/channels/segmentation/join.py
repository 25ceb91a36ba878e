"""Join segments into payloads, bounded in sets, bytes and age.

A set is keyed by sender, payload hash and length, so that one participant cannot occupy the slots of
another's payload. A set that is complete leaves a marker: with parity there are segments left over, and they
must not begin the payload a second time. A segment whose index the marker knows already does begin it again:
SDS removes repeated messages, so the sender sent the same payload twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from mapi_proc.channels.keccak import keccak256, running_keccak
from mapi_proc.channels.segmentation.leopard import ParityError, recover_data
from mapi_proc.channels.segmentation.message import UNKNOWN_LENGTH, SegmentMessage

_MAX_LEFTOVERS = 1_000
_LEFTOVERS_KEPT = 24 * 3600.0
"""Seconds: a segment can be repaired long after its payload was joined without it."""

_ZEROS_TRIED = 64
"""Most trailing zeros of a recovered payload of unknown length."""

Slot = tuple[bool, int]
"""Class (True: parity) and position of a segment."""

SetKey = tuple[str, bytes, int]
"""Sender, payload hash and length."""


@dataclass(frozen=True, slots=True)
class JoinLimits:
    """Bounds of what waits to be joined. `timeout` counts from the set's newest segment, in seconds."""

    timeout: float = 300.0
    max_segments: int = 256
    max_chunk: int = 1 << 20
    max_sets: int = 100
    max_bytes: int = 32 << 20


class Joined(NamedTuple):
    """A payload is complete. `tag` is the one of its first data segment held, `tags` those of all its
    segments."""

    sender: str
    payload: bytes
    payload_hash: bytes
    tag: str
    tags: tuple[str, ...]


class SetDropped(NamedTuple):
    """A payload cannot be completed: `Expired`, `Evicted` or `HashMismatch`."""

    sender: str
    payload_hash: bytes
    reason: str
    tags: tuple[str, ...]


class JoinResult(NamedTuple):
    """The result of one segment. `held`: it waits in its set; `joined`: it completed it; `refused`: why it
    was not taken, a counter's label."""

    held: bool = False
    joined: Joined | None = None
    refused: str = ""
    dropped: tuple[SetDropped, ...] = ()


@dataclass(slots=True)
class Leftover:
    """A joined payload's segments that are still to come, since the given time."""

    since: float
    slots: set[Slot]


@dataclass(slots=True)
class _Set:
    data_count: int
    parity_count: int
    changed: float
    segments: dict[Slot, bytes] = field(default_factory=dict)
    tags: dict[Slot, str] = field(default_factory=dict)
    size: int = 0


class Joiner:
    """Half-joined payloads of one channel. `changed` collects the leftovers that are to be stored (None: no
    longer)."""

    def __init__(self, limits: JoinLimits) -> None:
        self.limits = limits
        self._sets: OrderedDict[SetKey, _Set] = OrderedDict()
        self._leftovers: OrderedDict[SetKey, Leftover] = OrderedDict()
        self.changed: dict[SetKey, frozenset[Slot] | None] = {}
        self.buffered_bytes = 0

    @property
    def sets(self) -> int:
        """Number of payloads that wait for segments."""
        return len(self._sets)

    def add(self, sender: str, segment: SegmentMessage, tag: str, now: float) -> JoinResult:
        """Add a segment. `tag` is the caller's name for it, returned when its set ends."""
        reason = self._refusal(segment)
        if reason:
            return JoinResult(refused=reason)
        key = (sender, segment.payload_hash, segment.payload_length)
        slot = (segment.is_parity, segment.position)
        leftover = self._leftovers.get(key)
        if leftover is not None:
            if slot in leftover.slots:
                self._came(key, leftover, slot)
                return JoinResult(refused="duplicate_segment")
            self._forget(key)
        part = self._sets.get(key)
        if part is None:
            part = self._sets[key] = _Set(segment.data_count, segment.parity_count, now)
        elif segment.data_count != part.data_count:
            return JoinResult(refused="segment_count")
        elif segment.parity_count != part.parity_count:
            # The intermediate form does not carry the count: take the highest index seen.
            if segment.payload_length != UNKNOWN_LENGTH and segment.parity_count and part.parity_count:
                return JoinResult(refused="segment_count")
            part.parity_count = max(part.parity_count, segment.parity_count)
        if slot in part.segments:
            return JoinResult(refused="duplicate_segment")
        part.segments[slot], part.tags[slot] = segment.payload, tag
        part.changed = now
        part.size += len(segment.payload)
        self.buffered_bytes += len(segment.payload)
        self._sets.move_to_end(key)
        if len(part.segments) >= part.data_count:
            return self._complete_set(key, part, now)
        dropped = self._evict()
        return JoinResult(held=key in self._sets, dropped=dropped)

    def sweep(self, now: float) -> list[SetDropped]:
        """Drop sets that had no new segment for the timeout. Call about every half a minute."""
        timeout = self.limits.timeout
        old = [key for key, part in self._sets.items() if now - part.changed >= timeout]
        for key in [key for key, left in self._leftovers.items() if now - left.since >= _LEFTOVERS_KEPT]:
            self._forget(key)
        return [self._drop(key, "Expired") for key in old]

    def leave(self, key: SetKey, slots: Iterable[Slot], now: float) -> None:
        """Expect these segments of a payload that is joined."""
        self._leftovers[key] = Leftover(now, set(slots))
        self.changed[key] = frozenset(slots)
        if len(self._leftovers) > _MAX_LEFTOVERS:
            self._forget(next(iter(self._leftovers)))

    def _came(self, key: SetKey, leftover: Leftover, slot: Slot) -> None:
        leftover.slots.discard(slot)
        if leftover.slots:
            self.changed[key] = frozenset(leftover.slots)
        else:
            self._forget(key)

    def _forget(self, key: SetKey) -> None:
        del self._leftovers[key]
        self.changed[key] = None

    def _refusal(self, segment: SegmentMessage) -> str:
        limits = self.limits
        if segment.data_count + segment.parity_count > limits.max_segments:
            return "invalid_segment"
        if len(segment.payload) > limits.max_chunk:
            return "oversized_segment"
        length, count = segment.payload_length, segment.data_count
        # No data segment is empty (except that of an empty payload) or longer than a chunk.
        if length != UNKNOWN_LENGTH and not (length >= count or (length == 0 and count == 1)):
            return "invalid_segment"
        if length > count * limits.max_chunk or count * limits.max_chunk < len(segment.payload):
            return "invalid_segment"
        return ""

    def _complete_set(self, key: SetKey, part: _Set, now: float) -> JoinResult:
        payload = _payload(part, key[1], key[2])
        if payload is None:
            return JoinResult(dropped=(self._drop(key, "HashMismatch"),))
        self._remove(key)
        slots = {
            (parity, position)
            for parity, count in ((False, part.data_count), (True, part.parity_count))
            for position in range(count)
        }
        if slots := slots.difference(part.segments):
            self.leave(key, slots, now)
        tags = tuple(part.tags[slot] for slot in sorted(part.tags))
        return JoinResult(joined=Joined(key[0], payload, key[1], tags[0], tags))

    def _evict(self) -> tuple[SetDropped, ...]:
        dropped = []
        while len(self._sets) > self.limits.max_sets or self.buffered_bytes > self.limits.max_bytes:
            dropped.append(self._drop(next(iter(self._sets)), "Evicted"))
        return tuple(dropped)

    def _drop(self, key: SetKey, reason: str) -> SetDropped:
        part = self._remove(key)
        return SetDropped(key[0], key[1], reason, tuple(part.tags[slot] for slot in sorted(part.tags)))

    def _remove(self, key: SetKey) -> _Set:
        part = self._sets.pop(key)
        self.buffered_bytes -= part.size
        return part


def _payload(part: _Set, payload_hash: bytes, length: int) -> bytes | None:
    """Return the payload of a set that is complete by count, or None if it is not what was announced."""
    data = [part.segments.get((False, index)) for index in range(part.data_count)]
    chunks = [chunk for chunk in data if chunk is not None]
    if len(chunks) == part.data_count:
        payload = b"".join(chunks)
        fits = length in (UNKNOWN_LENGTH, len(payload))
        return payload if fits and keccak256(payload) == payload_hash else None
    parity = [part.segments.get((True, index)) for index in range(part.parity_count)]
    size = max((len(shard) for shard in parity if shard is not None), default=0)
    if data[-1] is not None and len(data[-1]) < size:
        tail = len(data[-1])
        data[-1] = data[-1].ljust(size, b"\0")
    else:
        tail = size if data[-1] is not None else UNKNOWN_LENGTH
    try:
        payload = b"".join(recover_data(data, parity))
    except ParityError:
        return None
    if length == UNKNOWN_LENGTH and tail != UNKNOWN_LENGTH:
        length = (part.data_count - 1) * size + tail
    if length != UNKNOWN_LENGTH:
        payload = payload[:length] if length <= len(payload) else b""
        return payload if keccak256(payload) == payload_hash else None
    return _unpadded(payload, payload_hash)


def _unpadded(payload: bytes, payload_hash: bytes) -> bytes | None:
    """Find the end of a payload whose last chunk was recovered and whose length was never announced."""
    least = len(payload.rstrip(b"\0"))
    running = running_keccak(payload[:least])  # hashed once: a payload is megabytes
    for length in range(least, min(least + _ZEROS_TRIED, len(payload))):
        if running.digest() == payload_hash:
            return payload[:length]
        running.update(b"\0")
    return payload if keccak256(payload) == payload_hash else None
