"""The stream of a named app: on disk before it is sent, kept until acknowledged, resumed after the last
ack.

Unsent events are also kept in memory, within the bounds of the tail; the older part of a slow app's stream
is read back from disk page by page, each while half of the one before waits. An app that is away or stuck
thus costs its bounded share of disk, two pages at most and a bounded tail, and other apps nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from ipc_schema.mapi.event_codec import pack_fields
from ipc_schema.mapi.events import AppEventKind
from mapi_proc.database import AppRecord, Batch, JournalEntry, JournalExtent
from mapi_proc.streams.extents import Extents
from mapi_proc.streams.limits import CacheBudget, DurableLimits
from mapi_proc.streams.stream import AckRefusedError, AppStream, Defer, EventSender

log = logging.getLogger(__name__)

_ENTRY_OVERHEAD: Final = 256
"""Approximate bytes of memory per event besides its frames."""


PageReader = Callable[[int, int, int, int, int, Callable[[list[JournalEntry]], None]], None]
"""The type of `Database.read_page`, which calls back later (never before returning)."""


class DurableStream(AppStream):
    """A named app's stream over the journal. Implements `CommitListener`."""

    durable = True

    def __init__(
        self,
        app: AppRecord,
        extents: Sequence[JournalExtent],
        read_page: PageReader,
        defer: Defer,
        *,
        limits: DurableLimits | None = None,
        budget: CacheBudget | None = None,
        date: Callable[[int], int] = lambda label: label,
    ) -> None:
        """Resume the stream as it was loaded (`Snapshot.apps`, `Snapshot.extents`; both empty for a new
        app).

        `date(label)` converts an event's time label to the clock by which it ages.
        """
        super().__init__(app.stream_id, defer)
        self.app_id = app.app_id
        self.limits = limits or DurableLimits()
        self.acked = app.acked
        self.dropped = app.dropped
        self.drop_time = app.dropped_at
        self.drop_reason = app.drop_reason
        self.last_seq = max(app.acked, app.dropped, extents[-1].last if extents else 0)
        self._sent = self.acked
        self._committed = self.last_seq
        self._extents = Extents(self.limits.max_bytes, self.limits.max_age, extents)
        self._budget = budget or CacheBudget()
        self._read_page = read_page
        self._date = date
        self._tail: deque[tuple[int, bytes, bytes]] = deque()
        self._tail_bytes = 0
        self._page: deque[JournalEntry] = deque()
        self._page_half = 0
        """With so many events of the page left, the next one is read."""
        self._reading = False
        self._lost = 0
        """The last event that is known to be lost."""
        self._connection = 0

    @property
    def stored_bytes(self) -> int:
        """Cost of the unacknowledged journal, to within 1/64 of the limit."""
        return self._extents.total

    # --- appending ------------------------------------------------------------------------------------------

    def append(
        self,
        kind: int,
        time_ns: int,
        fields: bytes,
        payload: bytes = b"",
        batch: Batch | None = None,
        payload_id: int = 0,
    ) -> int:
        """Add an event to the batch; it is sent once the batch is on disk."""
        assert batch is not None, "a durable stream is written through a batch"
        seq = self.last_seq + 1
        header = self._encode(seq, kind, time_ns, fields)
        dated = self._date(time_ns)
        batch.journal(self.app_id, seq, dated, header, payload, payload_id)
        batch.listeners[self] = seq
        self.last_seq = seq
        cost = len(header) + len(payload)
        if self._send is not None:
            self._tail.append((seq, header, payload))
            self._tail_bytes += cost + _ENTRY_OVERHEAD
            self._budget.used += cost + _ENTRY_OVERHEAD
            while self._tail and (
                self._tail_bytes > self.limits.tail_bytes or self._budget.used > self._budget.limit
            ):
                self._forget_first()
        self._extents.add(seq, cost, dated)
        if self._extents.total > self.limits.max_bytes:
            last, _ = self._extents.shrink(self.limits.max_bytes)
            self._drop(last, time_ns, "bytes", batch)
        return seq

    def note_delivered(self, message_hash: bytes) -> None:
        """No-op: the turn's batch records it (`Turn.delivered`)."""

    def was_delivered(self, message_hash: bytes) -> bool:  # noqa: ARG002
        """Not answered here: query the database (`find_delivered`)."""
        return False

    def committed(self, seq: int) -> None:
        """Allow sending up to `seq`: it is on disk."""
        self._committed = max(self._committed, seq)
        self.pump()

    def shrink(self, max_bytes: int, now: int, batch: Batch) -> int:
        """Drop the oldest events until about `max_bytes` are left. Return the bytes freed."""
        last, freed = self._extents.shrink(max(0, max_bytes))
        self._drop(last, now, "bytes", batch)
        return freed

    def expire(self, now: int, batch: Batch) -> None:
        """Drop events older than the age bound. `now` is the wall clock's."""
        self._drop(self._extents.expire(self._date(now) - self.limits.max_age), now, "age", batch)

    def _drop(self, last: int, now: int, reason: str, batch: Batch) -> None:
        count = last - max(self.acked, self.dropped)
        if count <= 0:
            return
        self._note_dropped(last, count, now, reason)
        batch.drop(self.app_id, last, now, reason)
        batch.listeners.setdefault(self, self._committed)  # the app is notified once it is on disk

    # --- acknowledging --------------------------------------------------------------------------------------

    def ack(self, seq: int, batch: Batch) -> int:
        """Advance the position and free the acknowledged events."""
        if seq > self._committed:
            raise AckRefusedError(f"seq {seq} was not sent, the last one is {self._committed}")
        if seq > self.acked:
            self.acked = seq
            self._sent = max(self._sent, seq)
            self._extents.release(seq)
            batch.ack(self.app_id, seq)
        return self.acked

    # --- sending --------------------------------------------------------------------------------------------

    def attach(self, send: EventSender, credit: int = 0) -> None:
        """Start with a connection after the last ack."""
        self._connection += 1
        super().attach(send, credit)

    def detach(self) -> None:
        """Release the connection and what was in memory for it."""
        super().detach()
        self._connection += 1
        self._page.clear()
        self._tail.clear()
        self._budget.used -= self._tail_bytes
        self._tail_bytes = 0

    def _peek(self) -> tuple[int, bytes, bytes] | None:
        wanted = self._sent + 1
        if wanted > self._committed:
            return None
        tail = self._tail
        while tail and tail[0][0] < wanted:
            self._forget_first()
        if tail and tail[0][0] == wanted:
            return tail[0]
        page = self._page
        while page and page[0].seq < wanted:
            page.popleft()
        if page:
            seq, header, _ = page[0]
            if seq > wanted or not header:
                return self._hole(seq - 1 if header else seq)
            if len(page) <= self._page_half and not self._reading:
                self._read_on(page[-1].seq)
            return page[0]
        if not self._reading:
            self._read_on(self._sent)
        return None

    def _read_on(self, after: int) -> None:
        """Read the next page ahead of time: the app need not wait for the disk at the end of each."""
        up_to = min(self._committed, self._tail[0][0] - 1) if self._tail else self._committed
        if after >= up_to:
            return
        self._reading = True
        connection = self._connection
        self._read_page(
            self.app_id,
            after,
            up_to,
            self.limits.page_bytes,
            self.limits.page_events,
            lambda entries: self._page_read(connection, after, entries),
        )

    def _dropped_event(self) -> tuple[int, bytes, bytes] | None:
        # Never before it is on disk: whatever was sent can be acknowledged.
        return super()._dropped_event() if self.dropped <= self._committed else None

    def _hole(self, last: int) -> tuple[int, bytes, bytes]:
        """Report the events up to `last`, which are lost. Those before them stay: not as if dropped."""
        first = self._sent + 1
        if last > self._lost:
            log.error("app %d: events %d to %d are not in the journal", self.app_id, first, last)
            self.events_dropped += last - max(self._sent, self._lost)
            self._lost = last
        fields = pack_fields(first, last, "lost")
        return last, self._encode(last, AppEventKind.EVENTS_DROPPED, self.drop_time, fields), b""

    def _page_read(self, connection: int, after: int, entries: list[JournalEntry]) -> None:
        self._reading = False
        if connection == self._connection:
            if not entries and self._sent == after:
                return  # A failed read: the next pump tries again (an immediate retry would loop).
            # Empty, but the stream has moved on: the bounds or an ack overtook the read.
            self._page.extend(entries)
            self._page_half = len(entries) // 2
        self.pump()

    def _forget_first(self) -> None:
        _, header, payload = self._tail.popleft()
        size = len(header) + len(payload) + _ENTRY_OVERHEAD
        self._tail_bytes -= size
        self._budget.used -= size
