"""The database as the rest of MAPI sees it: an object on the event loop that never blocks it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from mapi_proc.database.batch import Batch, OnCommitted, OnFailed
from mapi_proc.database.errors import DatabaseBusyError, DatabaseClosedError
from mapi_proc.database.opening import (
    OpenedFile,
    close_file,
    connect,
    is_corruption,
    mark_corrupt,
    open_file,
)
from mapi_proc.database.reader import find_request, load_snapshot, orphaned_apps, read_page
from mapi_proc.database.records import DamagedError, DamagedRowError, JournalEntry, OutboxEntry, Snapshot
from mapi_proc.database.writer import DatabaseState, GroupResult, Submission, Writer

log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class DatabaseLimits:
    """How much may wait for the disk before new input should pause; twice as much is refused."""

    pending_batches: int = 4096
    pending_bytes: int = 16 << 20


@dataclass(slots=True)
class DatabaseCounters:
    """Totals since the start."""

    commits: int = 0
    batches: int = 0
    bytes: int = 0
    refused: int = 0
    stalls: int = 0


class Database:
    """One SQLite file holding the state that must survive the process. Use it from the loop that opened it.

    To write, fill a `batch()`, `submit` it, and do what depends on it in `on_committed`. While `congested`,
    take no new input (answer `busy`, stop reading from the kernel) and continue at `when_room`. `submit`
    raises `DatabaseBusyError` for callers that did not check.

    `state` is `STALLED` while the disk refuses writes (full, I/O error): everything waits; nothing is lost or
    acknowledged.
    """

    def __init__(self, opened: OpenedFile, limits: DatabaseLimits) -> None:
        """Use `Database.open`."""
        self.path: Path = opened.path
        self.database_id: bytes = opened.snapshot.database_id
        self.limits = limits
        self.counters = DatabaseCounters()
        self.state = DatabaseState.OPEN
        self.state_reason = ""
        self.on_state: Callable[[DatabaseState, str], None] | None = None
        self.pending_batches = 0
        self.pending_bytes = 0
        self._opened = opened
        self._loaded: Snapshot | None = opened.snapshot
        self._loop = asyncio.get_running_loop()
        self._payload_ids = itertools.count(opened.next_payload_id)
        self._waiting_for_room: list[Callable[[], None]] = []
        self._closing = False
        self._read_connection: sqlite3.Connection | None = None
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mapi-database-reader")
        self._writer = Writer(opened, self._loop, self._group_done, self._state_changed)

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        limits: DatabaseLimits = DatabaseLimits(),
        random: Callable[[int], bytes] = os.urandom,
        now: Callable[[], int] = time.time_ns,
        boot_id: str | None = None,
    ) -> Database:
        """Open or create the file (mode 0600), migrate its schema, start the threads.

        `mapi_proc.database.opening` says how damaged or old files are handled. Raises `DatabaseLockedError`,
        `DatabaseUnavailableError`, `DatabaseTooNewError`, `NotOurDatabaseError`, `LeftoverLogError`.
        """
        opened = await asyncio.to_thread(open_file, path, random=random, now=now(), boot_id=boot_id)
        database = cls(opened, limits)
        for app_id in await database.read(orphaned_apps):
            database._writer.purge(app_id)
        database._writer.start()
        return database

    # --- writing --------------------------------------------------------------------------------------------

    def batch(self, *, durable: bool = False) -> Batch:
        """Start a batch. `durable`: its commit is fsynced and survives a host crash."""
        return Batch(self._payload_ids, durable=durable)

    @property
    def congested(self) -> bool:
        """True while so much waits for the disk that new input should pause."""
        return (
            self.pending_batches >= self.limits.pending_batches
            or self.pending_bytes >= self.limits.pending_bytes
        )

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once, when less than half of the limits is in use (via the loop, if that is so
        already)."""
        self._waiting_for_room.append(callback)
        if self._has_room():
            self._loop.call_soon(self._notify_room)

    def submit(
        self, batch: Batch, on_committed: OnCommitted | None = None, on_failed: OnFailed | None = None
    ) -> None:
        """Queue a batch. Batches are committed in the order of the calls, neighbours grouped.

        On commit, its streams are notified (`CommitListener.committed`), then `on_committed` is called.
        `on_failed` gets `BatchRefusedError` (nothing of this batch is stored) or `DatabaseClosedError`;
        without it the error goes to the loop's exception handler. Raises `DatabaseBusyError` at the bound
        and `DatabaseClosedError`; the batch was not taken then.
        """
        if self._closing:
            raise DatabaseClosedError("the database is closed")
        if (
            self.pending_batches >= 2 * self.limits.pending_batches
            or self.pending_bytes >= 2 * self.limits.pending_bytes
        ):
            raise DatabaseBusyError(
                f"{self.pending_batches} batches, {self.pending_bytes} bytes wait for the disk"
            )
        self._loaded = None
        self.pending_batches += 1
        self.pending_bytes += batch.cost
        self._writer.submit(Submission(batch, on_committed, on_failed))

    async def commit(self, batch: Batch) -> None:
        """Submit and wait. Raises what `on_failed` would get. For rare operations: starts, tests."""
        done: asyncio.Future[None] = self._loop.create_future()

        def committed() -> None:
            if not done.done():
                done.set_result(None)

        def failed(error: Exception) -> None:
            if not done.done():
                done.set_exception(error)

        self.submit(batch, committed, failed)
        await done

    # --- reading --------------------------------------------------------------------------------------------

    async def load(self) -> Snapshot:
        """Return the state that is kept in memory: as of opening, or as of now if something was written
        since.
        """
        loaded, self._loaded = self._loaded, None
        return loaded if loaded is not None else await self.read(load_snapshot, self.database_id)

    async def find_request(self, scope: bytes, request_id: bytes) -> OutboxEntry | None:
        """Look up a send, pending, or finished within the time that request ids are remembered."""
        return await self.read(find_request, scope, request_id)

    def read_page(
        self,
        app_id: int,
        after: int,
        up_to: int,
        max_bytes: int,
        max_events: int,
        done: Callable[[list[JournalEntry]], None],
    ) -> None:
        """Read committed events `after` < seq ≤ `up_to` of an app and pass them to `done` on the loop, in
        order.

        A failing read is logged and answered with an empty page, a damaged row with an entry in its place.
        """
        future = self.read(read_page, app_id, after, up_to, max_bytes, max_events)

        def deliver(finished: asyncio.Future[list[JournalEntry]]) -> None:
            if finished.cancelled():
                return
            error = finished.exception()
            if error is not None:
                log.error("cannot read the stream of app %d: %s", app_id, error)
            if isinstance(error, DamagedRowError):
                done(error.page)
            else:
                done([] if error is not None else finished.result())

        future.add_done_callback(deliver)

    def read(
        self, function: Callable[Concatenate[sqlite3.Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> asyncio.Future[_T]:
        """Call a function of `reader` or `channels` on the reader's thread. It sees committed data only: see
        `commit`."""

        def work() -> _T:
            if self._read_connection is None:
                self._read_connection = connect(self.path, read_only=True)
            try:
                return function(self._read_connection, *args, **kwargs)
            except (sqlite3.Error, DamagedError) as error:
                if isinstance(error, DamagedError) or is_corruption(error):
                    mark_corrupt(self.path)
                raise

        return self._loop.run_in_executor(self._reader, work)

    # --- closing --------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Commit what is queued, stop the threads, mark the file as cleanly closed. Idempotent.

        A stalled disk gets one more try; what cannot be stored then fails with `DatabaseClosedError`.
        """
        if self._closing:
            return
        self._closing = True
        self._writer.stop()
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._close_files)
        self._state_changed(DatabaseState.CLOSED, "")

    def _close_files(self) -> None:
        self._reader.shutdown(wait=True)
        if self._read_connection is not None:
            self._read_connection.close()
        close_file(self._opened)

    # --- from the writer ------------------------------------------------------------------------------------

    def _group_done(self, result: GroupResult) -> None:
        self.counters.commits += 1
        failure = result.failure
        for batch, on_committed, on_failed in result.submissions:
            self.pending_batches -= 1
            self.pending_bytes -= batch.cost
            try:
                if failure is not None:
                    self.counters.refused += 1
                    if on_failed is None:
                        raise failure
                    on_failed(failure)
                else:
                    self.counters.batches += 1
                    self.counters.bytes += batch.cost
                    for listener, seq in batch.listeners.items():
                        listener.committed(seq)
                    if on_committed is not None:
                        on_committed()
            except Exception as error:
                # One callback's exception must not keep the others from their commit notification.
                context = {"message": "after a database commit", "exception": error}
                self._loop.call_exception_handler(context)
        if self._waiting_for_room and self._has_room():
            self._notify_room()

    def _has_room(self) -> bool:
        return (
            self.pending_batches * 2 <= self.limits.pending_batches
            and self.pending_bytes * 2 <= self.limits.pending_bytes
        )

    def _notify_room(self) -> None:
        waiting, self._waiting_for_room = self._waiting_for_room, []
        for callback in waiting:
            callback()

    def _state_changed(self, state: DatabaseState, reason: str) -> None:
        if state is DatabaseState.STALLED:
            self.counters.stalls += 1
        changed = state is not self.state
        self.state, self.state_reason = state, reason
        if changed and self.on_state is not None:
            self.on_state(state, reason)
