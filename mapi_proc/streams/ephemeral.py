"""The stream of an app without a name: in memory, ends with its connection."""

from __future__ import annotations

from collections import deque
from typing import Final

from mapi_proc.database import Batch
from mapi_proc.streams.limits import EphemeralLimits
from mapi_proc.streams.stream import AckRefusedError, AppStream, Defer

_REMEMBERED: Final = 20_000
"""Least number of hashes that an ephemeral stream remembers, so that history does not deliver them again."""


class EphemeralStream(AppStream):
    """Holds only unsent events, bounded in bytes and count; sent ones are forgotten at once."""

    durable = False

    def __init__(self, stream_id: bytes, defer: Defer, limits: EphemeralLimits | None = None) -> None:
        super().__init__(stream_id, defer)
        self.limits = limits or EphemeralLimits()
        self._delivered: set[bytes] = set()
        self._delivered_before: set[bytes] = set()
        self._waiting: deque[tuple[int, bytes, bytes]] = deque()
        self.waiting_bytes = 0

    def append(
        self,
        kind: int,
        time_ns: int,
        fields: bytes,
        payload: bytes = b"",
        batch: Batch | None = None,  # noqa: ARG002 (nothing of this stream is stored)
        payload_id: int = 0,  # noqa: ARG002
    ) -> int:
        """Add an event; send it at once if none is waiting and credit is open."""
        seq = self.last_seq + 1
        header = self._encode(seq, kind, time_ns, fields)
        self.last_seq = seq
        cost = len(header) + len(payload)
        send = self._send
        if (
            self._sent == seq - 1
            and send is not None
            and self._spent < self._credit
            and send(header, payload)
        ):
            # `_count_sent`, written out: this is the hot path.
            self._sent = seq
            self._spent += cost
            return seq
        self._waiting.append((seq, header, payload))
        self.waiting_bytes += cost
        if self.waiting_bytes > self.limits.max_bytes or len(self._waiting) > self.limits.max_events:
            self._shrink(time_ns)
        return seq

    def note_delivered(self, message_hash: bytes) -> None:
        """Remember the hash in one of two generations: the older is dropped when the younger is full."""
        self._delivered.add(message_hash)
        if len(self._delivered) >= _REMEMBERED:
            self._delivered_before, self._delivered = self._delivered, set()

    def was_delivered(self, message_hash: bytes) -> bool:
        """Return whether it is among the last messages delivered."""
        return message_hash in self._delivered or message_hash in self._delivered_before

    def expire(self, now: int, batch: Batch) -> None:
        """An ephemeral stream has no age bound."""

    def ack(self, seq: int, batch: Batch) -> int:  # noqa: ARG002
        """Advance the position; nothing is stored."""
        if seq > self._sent:
            raise AckRefusedError(f"seq {seq} was not sent, the last one is {self._sent}")
        self.acked = max(self.acked, seq)
        return self.acked

    def _start(self) -> int:
        return self._sent  # sent events are gone: there is nothing to resume

    def _peek(self) -> tuple[int, bytes, bytes] | None:
        return self._waiting[0] if self._waiting else None

    def _count_sent(self, seq: int, cost: int) -> None:
        super()._count_sent(seq, cost)
        if self._waiting and self._waiting[0][0] == seq:
            self._waiting.popleft()
            self.waiting_bytes -= cost

    def _shrink(self, now: int) -> None:
        reason = "bytes" if self.waiting_bytes > self.limits.max_bytes else "count"
        last = count = 0
        while len(self._waiting) > 1 and (
            self.waiting_bytes > self.limits.max_bytes or len(self._waiting) > self.limits.max_events
        ):
            last, header, payload = self._waiting.popleft()
            self.waiting_bytes -= len(header) + len(payload)
            count += 1
        if count:
            self._note_dropped(last, count, now, reason)
