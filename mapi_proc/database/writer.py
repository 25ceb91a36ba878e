"""The writer thread: commits everything queued as one transaction and notifies the event loop.

A group with a durable batch is reported when it is synced as well, which another thread does meanwhile
(`log_sync`).

A batch is never given up for lack of space or an I/O error: the group is rolled back and retried with
growing back-off until it is on disk or the database is closed. Only a batch that can never be stored is
refused, alone.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple, TypeVarTuple, Unpack

from mapi_proc.database.batch import Batch, OnCommitted, OnFailed
from mapi_proc.database.checkpoints import LogGrowth
from mapi_proc.database.errors import BatchRefusedError, DatabaseClosedError, DatabaseGoneError
from mapi_proc.database.journal import SEQ_BITS
from mapi_proc.database.log_sync import LogSync
from mapi_proc.database.opening import OpenedFile, is_corruption, is_host_fault, mark_corrupt
from mapi_proc.database.sidecar import Tally
from mapi_proc.database.statements import execute_batch, release_journal

log = logging.getLogger(__name__)

_Args = TypeVarTuple("_Args")

GROUP_BATCHES: Final = 1024
GROUP_BYTES: Final = 1 << 20
PURGE_ROWS: Final = 32
"""Rows of a forgotten app that are removed at once: 2 MiB of small events."""
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
LOOK_EVERY: Final = 1.0
"""Idle seconds after which the files are checked."""


class DatabaseState(StrEnum):
    """State of the database, as an operator sees it."""

    OPEN = "open"
    STALLED = "stalled"
    CLOSED = "closed"


class Submission(NamedTuple):
    """A queued batch and its callbacks."""

    batch: Batch
    on_committed: OnCommitted | None
    on_failed: OnFailed | None


class GroupResult(NamedTuple):
    """Batches in order that were stored together, or that `failure` kept from being stored."""

    submissions: list[Submission]
    failure: Exception | None = None


class Writer:
    """The thread that owns the writing connection. `submit` and `stop` are for the event loop's thread.

    `on_group` and `on_state` (state, reason) are called on the loop, in order.
    """

    def __init__(
        self,
        opened: OpenedFile,
        loop: asyncio.AbstractEventLoop,
        on_group: Callable[[GroupResult], None],
        on_state: Callable[[DatabaseState, str], None],
    ) -> None:
        self._opened = opened
        self._connection = opened.connection
        self._loop = loop
        self._on_group = on_group
        self._on_state = on_state
        self._queue: SimpleQueue[Submission | None] = SimpleQueue()
        self._closing = threading.Event()
        self._stalled = False
        self._growth = LogGrowth()
        self._watch = opened.watch
        self._tally = Tally(opened.counts, opened.snapshot)
        self._purges: deque[int] = deque()
        self._sync: LogSync[GroupResult] = LogSync(opened.log, self._report, self._wake)
        self._worker = threading.Thread(target=self._run, name="mapi-database", daemon=True)

    def start(self) -> None:
        self._sync.start()
        self._worker.start()

    def submit(self, submission: Submission) -> None:
        """Queue a batch. Never blocks; the caller enforces the bound."""
        self._queue.put(submission)

    def purge(self, app_id: int) -> None:
        """Queue the removal of a forgotten app's events (before `start` only; later the writer does it
        itself).
        """
        self._purges.append(app_id)

    def stop(self) -> None:
        """Ask the thread to end after what is queued. A stalled writer tries once more and gives up."""
        self._closing.set()
        self._wake()

    def _wake(self) -> None:
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the thread to end (blocks)."""
        self._worker.join()

    # --- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            group = self._collect()
            if self._sync.failure is not None:
                self._secure()
            if group:
                self._store(group)
                self._checkpoint()
            elif self._closing.is_set():
                break
            elif self._purges and not self._stalled:
                self._purge_some()
                self._checkpoint()
            else:
                self._look()
        self._sync.stop()
        if self._sync.failure is not None:
            self._secure()

    def _collect(self) -> list[Submission]:
        group: list[Submission] = []
        size = 0
        get = self._queue.get_nowait
        try:
            at_once = self._purges or self._closing.is_set()
            item = get() if at_once else self._queue.get(timeout=LOOK_EVERY)
            while True:
                if item is not None:
                    group.append(item)
                    size += item.batch.cost
                    if len(group) >= GROUP_BATCHES or size >= GROUP_BYTES:
                        break
                item = get()
        except Empty:
            pass
        return group

    def _store(self, group: list[Submission]) -> None:
        pause = FIRST_PAUSE
        while True:
            last_try = self._closing.is_set()
            try:
                self._commit(group)
                break
            except Exception as error:
                self._rollback()
                if not _outer(error):
                    # One of these batches is impossible (whatever it raised): find it, so that it falls
                    # alone.
                    self._store_singly(group, error)
                    return
                self._stall(error)
                if last_try:
                    self._sync.committed(GroupResult(group, _closed(error)), durable=False)
                    return
            self._closing.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
        self._unstall()
        self._sync.committed(GroupResult(group), any(submission.batch.durable for submission in group))
        self._growth.committed(sum(submission.batch.cost for submission in group))
        for submission in group:
            self._purges.extend(app_id for (app_id,) in submission.batch.apps_forgotten)

    def _store_singly(self, group: list[Submission], error: Exception) -> None:
        if len(group) == 1:
            log.error("a batch cannot be stored", exc_info=error)
            refused = BatchRefusedError(str(error))
            refused.__cause__ = error
            self._sync.committed(GroupResult(group, refused), durable=False)
            return
        for submission in group:
            self._store([submission])

    def _commit(self, group: list[Submission]) -> None:
        execute = self._connection.execute
        self._watch.check()
        execute("BEGIN IMMEDIATE")
        for submission in group:
            execute_batch(self._connection, submission.batch)
        execute("COMMIT")
        for submission in group:
            self._tally.add(submission.batch)
        self._watch.committed(self._tally.counts)

    def _secure(self) -> None:
        """After a failed sync, bring the log to the disk; until then nothing is committed or checkpointed."""
        pause = FIRST_PAUSE
        error: Exception | None = self._sync.failure
        while error is not None:
            last_try = self._closing.is_set()
            self._stall(error)
            try:
                self._watch.check()
                self._connection.execute("BEGIN IMMEDIATE")  # another process must not write the log
                self._sync.rewrite_log()
                error = None
            except (DatabaseGoneError, OSError, sqlite3.Error) as fault:
                error = fault
            finally:
                self._rollback()
            if error is not None:
                if last_try:
                    for submissions, failure in self._sync.abandon():
                        self._report(GroupResult(submissions, failure or _closed(error)))
                    return
                self._closing.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        self._unstall()
        self._sync.secured()

    def _rollback(self) -> None:
        # SQLite has rolled back by itself after some errors (full disk, I/O); asking again would be an error.
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                log.warning("rollback: %s", error)

    def _stall(self, error: Exception) -> None:
        if is_corruption(error):
            mark_corrupt(self._opened.path)
        if not self._stalled:
            log.error("cannot write the database (%s): retrying until it works", error)
        self._stalled = True
        self._post(self._on_state, DatabaseState.STALLED, str(error))

    def _unstall(self) -> None:
        if self._stalled:
            self._stalled = False
            log.warning("the database is writable again")
            self._post(self._on_state, DatabaseState.OPEN, "")

    def _look(self) -> None:
        """While idle, check that the files are still there."""
        try:
            self._watch.check()
        except (DatabaseGoneError, OSError) as error:
            self._stall(error)
        else:
            self._unstall()

    def _checkpoint(self) -> None:
        """Checkpoint the write-ahead log, between commits, once it has grown enough."""
        if not self._growth.due or self._stalled or self._sync.failure is not None:
            return
        try:
            self._watch.checkpointing()
            row = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            # The log only grows; the next commit shows whether the disk is at fault.
            log.warning("checkpoint: %s", error)
            self._growth.failed()
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_FSYNC:
                self._sync.doubt(error)
                self._secure()
        else:
            self._growth.checkpointed(row[1], row[2])
            self._watch.checkpointed()

    def _purge_some(self) -> None:
        """Remove part of a forgotten app's stream, only while nothing else is queued."""
        app_id = self._purges[0]
        low, high = app_id << SEQ_BITS, (app_id + 1) << SEQ_BITS
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            row = self._connection.execute(
                "SELECT key FROM journal WHERE key > ? AND key < ? ORDER BY key LIMIT 1 OFFSET ?",
                (low, high, PURGE_ROWS - 1),
            ).fetchone()
            release_journal(self._connection, app_id, (1 << SEQ_BITS) - 1 if row is None else row[0] - low)
            self._connection.execute("COMMIT")
            self._growth.committed(PURGE_ROWS << 12)
        except sqlite3.Error as error:
            self._rollback()
            log.warning("the rest of a forgotten app will be removed at the next start: %s", error)
            self._purges.popleft()
            return
        if row is None:
            self._purges.popleft()

    def _report(self, result: GroupResult) -> None:
        self._post(self._on_group, result)

    def _post(self, callback: Callable[[Unpack[_Args]], None], *args: *_Args) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            # The loop is closed, so there are no callbacks left to run. The commit itself stands.
            log.warning("the event loop ended before the database was closed")
            self._closing.set()


def _closed(error: Exception) -> DatabaseClosedError:
    return DatabaseClosedError(f"closed before it could be stored: {error}")


def _outer(error: Exception) -> bool:
    """Return True if the disk or the system is at fault: the same batch may succeed later."""
    if isinstance(error, MemoryError | OSError | DatabaseGoneError):
        return True
    return is_host_fault(error) or is_corruption(error)
