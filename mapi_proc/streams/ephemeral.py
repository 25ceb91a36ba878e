"""The stream of an app without a name: in memory, ends with its connection."""

from __future__ import annotations

from collections import deque
from typing import Final

from mapi_proc.database import Batch
from mapi_proc.streams.limits import EphemeralLimits
from mapi_proc.streams.stream import AckRefusedError, AppStream, Defer

__all__ = ["EphemeralStream"]

_REMEMBERED: Final = 20_000
"""Messages whose hashes an ephemeral app's stream remembers, at least: history does not bring them again."""


class EphemeralStream(AppStream):
    """Holds only what could not be sent yet, bounded in bytes and count; what was sent is forgotten at
    once.
    """

    durable = False

    def __init__(self, stream_id: bytes, defer: Defer, limits: EphemeralLimits | None = None) -> None:
        super().__init__(stream_id, defer)
        self.limits = limits or EphemeralLimits()
        self._given: set[bytes] = set()
        self._given_before: set[bytes] = set()
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
        """Add an event and send it at once if nothing waits and credit is open."""
        seq = self.last_seq + 1
        header = self._encode(seq, kind, time_ns, fields)
        self.last_seq = seq
        self.counters.appended += 1
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
            self.counters.sent += 1
            self.counters.sent_bytes += cost
            return seq
        self._waiting.append((seq, header, payload))
        self.waiting_bytes += cost
        if self.waiting_bytes > self.limits.max_bytes or len(self._waiting) > self.limits.max_events:
            self._shrink(time_ns)
        return seq

    def note_given(self, message_hash: bytes) -> None:
        """In two generations: the older one is forgotten when the younger one is full."""
        self._given.add(message_hash)
        if len(self._given) >= _REMEMBERED:
            self._given_before, self._given = self._given, set()

    def was_given(self, message_hash: bytes) -> bool:
        """Whether it was among the last messages given."""
        return message_hash in self._given or message_hash in self._given_before

    def expire(self, now: int, batch: Batch) -> None:
        """An ephemeral stream has no age bound."""

    def ack(self, seq: int, batch: Batch) -> int:  # noqa: ARG002
        """Move the position; nothing is stored."""
        if seq > self._sent:
            raise AckRefusedError(f"seq {seq} was not sent, the last one is {self._sent}")
        self.acked = max(self.acked, seq)
        return self.acked

    def _start(self) -> int:
        return self._sent  # what was sent is gone: there is nothing to repeat

    def _peek(self) -> tuple[int, bytes, bytes] | None:
        return self._waiting[0] if self._waiting else None

    def _count_sent(self, seq: int, cost: int) -> None:
        super()._count_sent(seq, cost)
        if self._waiting and self._waiting[0][0] == seq:
            self._waiting.popleft()
            self.waiting_bytes -= cost

    def _shrink(self, now: int) -> None:
        reason = "bytes" if self.waiting_bytes > self.limits.max_bytes else "count"
        last = count = size = 0
        while len(self._waiting) > 1 and (
            self.waiting_bytes > self.limits.max_bytes or len(self._waiting) > self.limits.max_events
        ):
            last, header, payload = self._waiting.popleft()
            cost = len(header) + len(payload)
            self.waiting_bytes -= cost
            count += 1
            size += cost
        if count:
            self._note_dropped(last, count, size, now, reason)
