"""The embedded engine: one SQLite file, one writing connection, a few reading ones.

Rows are inserted with statements of up to 128 rows: a worker thread releases the interpreter lock while
SQLite works, so one statement per row would contend with the node's own thread for each row.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from kernel_proc.archive.api import CursorNotFound, HistoryPage, HistoryQuery, KeyQuery, TopicSpan
from kernel_proc.archive.engine import ArchiveEngine, DatabaseFailed, RowsRefused, Totals
from kernel_proc.archive.plan import EVERYTHING, Key, Span
from kernel_proc.archive.rows import ArchivedRow
from kernel_proc.archive.sqlite_file import (
    connect,
    is_interrupt,
    is_refusal,
    is_shortage,
    migrate,
    prepare_file,
)
from kernel_proc.archive.sqlite_read import marks, oldest_rows, padded, read_keys, read_page, topic_spans

log = logging.getLogger(__name__)

WRITER_CACHE: Final = 32 << 20
READER_CACHE: Final = 8 << 20
PROGRESS_STEPS: Final = 100_000
"""SQLite VM steps (some milliseconds) between two deadline checks."""
COUNT_SECONDS: Final = 300.0
CLOSE_SECONDS: Final = 1.0
REMOVED_AT_ONCE: Final = 500
"""Messages removed in one transaction."""

_NO_FILE: Final = (0, 0)

INSERT_SIZES: Final = (128, 16, 1)
_COLUMNS: Final = "timestamp, hash, topic_key, pubsub_topic, content_topic, data"
_INSERT: Final = {
    size: f"INSERT INTO message ({_COLUMNS}) VALUES {', '.join(['(?, ?, ?, ?, ?, ?)'] * size)}"  # noqa: S608
    " ON CONFLICT (hash, timestamp) DO NOTHING"
    for size in INSERT_SIZES
}


class SqliteEngine(ArchiveEngine):
    """The engine on a file, which only one node uses. `readers` limits its reading connections."""

    def __init__(
        self, path: Path, *, readers: int = 4, may_migrate: bool = True, vacuum: bool = False
    ) -> None:
        self.readers = readers
        self._path = path
        self._may_migrate = may_migrate
        self._vacuum = vacuum
        self._writer: sqlite3.Connection | None = None
        self._file = _NO_FILE
        """Identifies the file that was checked and may be read."""
        self._idle: deque[tuple[int, sqlite3.Connection]] = deque()
        self._generation = 0
        self._lock = threading.RLock()

    # --- lifetime ---

    def open(self) -> None:
        """Open or create the file, unless it is open. Raise `DatabaseFailed`."""
        with self._lock:
            if self._writer is None:
                self._open()
            elif self._identity() != self._file:
                # Otherwise we would keep writing to an unlinked file.
                self._reset()
                self._file = _NO_FILE
                raise DatabaseFailed(f"{self._path} was removed or replaced while it was open")

    def _open(self) -> None:
        self._file = _NO_FILE
        try:
            prepare_file(self._path)
            connection = connect(self._path, read_only=False, cache_bytes=WRITER_CACHE)
        except (OSError, sqlite3.Error) as error:
            raise DatabaseFailed(f"cannot open {self._path}: {_text(error)}") from error
        try:
            migrate(connection, self._path, allowed=self._may_migrate)
            if self._vacuum:
                connection.execute("VACUUM")
                self._vacuum = False
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise DatabaseFailed(f"cannot open {self._path}: {_text(error)}") from error
            raise
        self._file = self._identity()
        self._writer = connection

    def close(self) -> None:
        """Close all idle connections; those in use are closed when their read ends."""
        if not self._lock.acquire(timeout=CLOSE_SECONDS):
            log.warning("archive file left open: a write is still in progress")
            return
        try:
            self._reset()
        finally:
            self._lock.release()

    def _reset(self) -> None:
        self._generation += 1
        with contextlib.suppress(IndexError):  # readers take from it concurrently
            while True:
                _close(self._idle.pop()[1])
        if self._writer is not None:
            _close(self._writer)
            self._writer = None

    def _identity(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return _NO_FILE
        return found.st_dev, found.st_ino

    # --- writing ---

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self.open()
            connection = self._writer
            assert connection is not None
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                # After some errors (full disk), SQLite has already rolled back.
                if connection.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                if isinstance(error, Exception) and is_refusal(error):
                    raise RowsRefused(_text(error)) from error
                if isinstance(error, sqlite3.Error):
                    if not is_shortage(error):
                        self._reset()  # by the next attempt, the file may be repaired or replaced
                    raise DatabaseFailed(f"{self._path}: {_text(error)}") from error
                raise

    def insert(self, rows: Sequence[ArchivedRow]) -> int:
        """Store rows in one transaction; those whose hash exists are skipped."""
        new = 0
        with self._transaction() as connection:
            at = 0
            for size in INSERT_SIZES:
                while len(rows) - at >= size:
                    new += connection.execute(
                        _INSERT[size], [value for row in rows[at : at + size] for value in row]
                    ).rowcount
                    at += size
        return new

    def remove(self, excess: int | None, before: int | None) -> int:
        """Remove the oldest messages."""
        limit = REMOVED_AT_ONCE if excess is None else min(excess, REMOVED_AT_ONCE)
        covered = EVERYTHING if before is None else Span(EVERYTHING.low, (before, b""))
        with self._transaction() as connection:
            oldest = oldest_rows(connection, limit, covered)
            for part in padded(oldest):
                connection.execute(f"DELETE FROM message WHERE id IN ({marks(len(part))})", part)  # noqa: S608
        return len(oldest)

    # --- reading ---

    def read(self, query: HistoryQuery, timeout: float) -> HistoryPage:
        """Return one page from a consistent snapshot."""
        with self._reader(timeout) as connection:
            return read_page(connection, query)

    def read_keys(self, query: KeyQuery, timeout: float) -> list[Key]:
        """Return keys from a consistent snapshot."""
        with self._reader(timeout) as connection:
            return read_keys(connection, query)

    def spans(self) -> list[TopicSpan]:
        """Count using an index."""
        with self._reader(COUNT_SECONDS) as connection:
            return topic_spans(connection)

    def totals(self) -> Totals:
        """Count rows and pages in use."""
        with self._reader(COUNT_SECONDS) as connection:
            (messages,) = connection.execute("SELECT count(*) FROM message").fetchone()
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            (size,) = connection.execute("PRAGMA page_size").fetchone()
        return Totals(messages, (pages - free) * size)

    @contextlib.contextmanager
    def _reader(self, timeout: float) -> Iterator[sqlite3.Connection]:
        try:
            generation, connection = self._idle.pop()
        except IndexError:
            generation = self._generation
            connection = self._connect_reader()
        deadline = time.monotonic() + timeout
        keep = False
        try:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, PROGRESS_STEPS)
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("COMMIT")
            keep = True
        except CursorNotFound:
            keep = True
            raise
        except sqlite3.Error as error:
            if is_interrupt(error):
                raise DatabaseFailed(f"the query took longer than {timeout:g} s") from error
            raise DatabaseFailed(f"{self._path}: {_text(error)}") from error
        finally:
            if keep and generation == self._generation:
                self._idle.append((generation, connection))
            else:
                _close(connection)

    def _connect_reader(self) -> sqlite3.Connection:
        if self._file == _NO_FILE:
            raise DatabaseFailed(f"{self._path} is not open")
        try:
            return connect(self._path, read_only=True, cache_bytes=READER_CACHE)
        except sqlite3.Error as error:
            raise DatabaseFailed(f"cannot open {self._path}: {_text(error)}") from error


def _text(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _close(connection: sqlite3.Connection) -> None:
    try:
        connection.close()
    except sqlite3.Error as error:
        log.warning("cannot close an archive connection: %s", error)
