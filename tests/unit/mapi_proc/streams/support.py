"""A journal and a connection that tests drive by hand, step by step."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ipc_schema.mapi.event_codec import decode_app_event, pack_fields
from ipc_schema.mapi.events import AppEvent
from mapi_proc.database import Batch, JournalEntry, Snapshot
from mapi_proc.database.journal import SEQ_MASK, events_of
from mapi_proc.database.opening import connect
from mapi_proc.database.reader import load_snapshot, read_page
from mapi_proc.database.schema import migrate
from mapi_proc.database.statements import execute_batch

PROPAGATED = 2


def fields(number: int) -> bytes:
    """Fields of an event that says which one it is."""
    return pack_fields(number.to_bytes(16, "big"), bytes(32))


class Steps:
    """`call_soon` by hand."""

    def __init__(self) -> None:
        self.waiting: deque[Callable[[], None]] = deque()

    def __call__(self, callback: Callable[[], None]) -> None:
        self.waiting.append(callback)

    def run(self) -> None:
        while self.waiting:
            self.waiting.popleft()()


class Journal:
    """The real tables in memory; commits and reads happen when the test says so."""

    def __init__(self) -> None:
        self.connection = connect(Path(":memory:"))
        migrate(self.connection)
        self._payload_ids = itertools.count(1)
        self.batches: deque[Batch] = deque()
        self.reads: deque[Callable[[], None]] = deque()

    def batch(self) -> Batch:
        return Batch(self._payload_ids)

    def submit(self, batch: Batch) -> None:
        self.batches.append(batch)

    def commit(self, count: int | None = None) -> None:
        """Store the oldest batches (all of them) and tell the streams."""
        for _ in range(len(self.batches) if count is None else min(count, len(self.batches))):
            batch = self.batches.popleft()
            self.connection.execute("BEGIN")
            execute_batch(self.connection, batch)
            self.connection.execute("COMMIT")
            for listener, seq in batch.listeners.items():
                listener.committed(seq)

    def read_page(
        self,
        app_id: int,
        after: int,
        up_to: int,
        max_bytes: int,
        max_events: int,
        done: Callable[[list[JournalEntry]], None],
    ) -> None:
        self.reads.append(
            lambda: done(read_page(self.connection, app_id, after, up_to, max_bytes, max_events))
        )

    def read(self) -> None:
        """Do the reads that were asked for, and those that follow from them."""
        while self.reads:
            self.reads.popleft()()

    def load(self) -> Snapshot:
        return load_snapshot(self.connection, b"")

    def rows(self) -> list[list[int]]:
        """The seqs of the events in each row."""
        return [
            [event.seq for event in events_of(key & SEQ_MASK, header, payload or b"", sizes)]
            for key, header, payload, sizes in self.connection.execute(
                "SELECT key, header, payload, sizes FROM journal ORDER BY key"
            )
        ]

    def seqs(self) -> list[int]:
        """The seqs of all events."""
        return [seq for row in self.rows() for seq in row]


class Connection:
    """What an app's connection got. `open` false: its queue is full."""

    def __init__(self) -> None:
        self.open = True
        self.events: list[AppEvent] = []
        self.payloads: list[bytes] = []
        self.cost = 0

    def __call__(self, header: bytes, payload: bytes) -> bool:
        if not self.open:
            return False
        self.events.append(decode_app_event(header))
        self.payloads.append(payload)
        self.cost += len(header) + len(payload)
        return True

    @property
    def seqs(self) -> list[int]:
        return [event.seq for event in self.events]
