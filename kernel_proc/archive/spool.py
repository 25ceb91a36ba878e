"""Messages that wait on disk while the archive's database is away: a bounded first-in, first-out queue of
rows in a SQLite file, which exists only as long as it holds any.

A row that was added survives a kill of the process and a loss of power. Rows are removed once the database
has them; a kill between the two leaves them to be stored again, which does no harm.

A file that is damaged is set aside (`….corrupt-<time>`) for the operator, and a new one is begun.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from kernel_proc.archive.rows import ROW_OVERHEAD, ArchivedRow, topic_key
from kernel_proc.archive.sqlite_file import connect, prepare_file

CACHE_BYTES: Final = 2 << 20
BUSY_SECONDS: Final = 60
"""How long to wait for `logos backup`, which locks the file while it copies it."""

_CREATE: Final = """
CREATE TABLE IF NOT EXISTS spool (
    id INTEGER PRIMARY KEY,
    timestamp INTEGER NOT NULL,
    hash BLOB NOT NULL,
    pubsub_topic TEXT NOT NULL,
    content_topic TEXT NOT NULL,
    data BLOB NOT NULL,
    cost INTEGER NOT NULL
)
"""
_ADD: Final = """
INSERT INTO spool (timestamp, hash, pubsub_topic, content_topic, data, cost) VALUES (?, ?, ?, ?, ?, ?)
"""
_FIRST: Final = """
SELECT id, timestamp, hash, pubsub_topic, content_topic, data FROM spool ORDER BY id LIMIT ?
"""
_COUNT: Final = "SELECT count(*), coalesce(sum(cost), 0) FROM spool"
_SIDE_FILES: Final = ("-journal", "-wal", "-shm")
_DAMAGES: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


class SpoolFailed(Exception):
    """The file cannot be written or read; the text is for the operator."""


class MessageSpool:
    """The queue. `open` first. Blocking; may be used by several threads."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self.messages = 0
        self.bytes = 0
        self.damaged: tuple[str, ...] = ()
        """Names of the files that were set aside, also by earlier runs."""

    @property
    def has_room(self) -> bool:
        """Whether another group may be added. The last one may exceed the limit."""
        return self.bytes < self._max_bytes

    def open(self) -> None:
        """Find out what an earlier run left. Raise `SpoolFailed`."""
        with self._lock, self._errors():
            self._look_for_damaged()
            if self._path.exists():
                counted = self._open().execute(_COUNT).fetchone()
                self.messages, self.bytes = counted
                self._remove_if_empty()

    def close(self) -> None:
        """Close the file. Never raise."""
        with self._lock, contextlib.suppress(SpoolFailed), self._errors():
            self._close()

    def add(self, rows: Sequence[ArchivedRow]) -> None:
        """Append rows, all or none. Raise `SpoolFailed`."""
        values = [
            (row.timestamp, row.message_hash, row.pubsub_topic, row.content_topic, row.data, _cost(row))
            for row in rows
        ]
        with self._lock, self._errors():
            connection = self._open()
            connection.execute("BEGIN")
            try:
                connection.executemany(_ADD, values)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            self.messages += len(rows)
            self.bytes += sum(value[-1] for value in values)

    def first(self, messages: int, size: int) -> tuple[int, list[ArchivedRow]]:
        """Return the oldest rows, at most `messages`, up to and including the one that reaches `size` bytes;
        with the mark for `remove`. Raise `SpoolFailed`."""
        mark, rows = 0, list[ArchivedRow]()
        with self._lock, self._errors():
            found = self._open().execute(_FIRST, (messages,))
            try:
                for number, *values in found:
                    rows.append(_row(*values))
                    mark = number
                    size -= len(rows[-1].data)
                    if size <= 0:
                        break
            except (sqlite3.Error, UnicodeError, _UnreadableRow):
                if not rows:  # what is before the damage is stored first
                    raise
            found.close()
        return mark, rows

    def remove(self, mark: int, rows: Sequence[ArchivedRow]) -> None:
        """Remove the rows that `first` returned with this mark. Raise `SpoolFailed`."""
        with self._lock, self._errors():
            self._open().execute("DELETE FROM spool WHERE id <= ?", (mark,))
            self.messages -= len(rows)
            self.bytes -= sum(map(_cost, rows))
            self._remove_if_empty()

    # --- the file ---

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            prepare_file(self._path)
            connection = connect(self._path, read_only=False, cache_bytes=CACHE_BYTES)
            try:
                # There is no other copy of these messages: unlike the archive's, they must survive a loss of
                # power. No write-ahead log: this file is removed when it is empty, and a `logos backup` that
                # still has it open would at its end remove the log of the next one.
                connection.execute("PRAGMA journal_mode = TRUNCATE")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
                connection.execute(_CREATE)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _remove_if_empty(self) -> None:
        if not self.messages:
            self._close()
            for suffix in (*_SIDE_FILES, ""):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    def _look_for_damaged(self) -> None:
        found = self._path.parent.glob(f"{self._path.name}.corrupt-*")
        self.damaged = tuple(sorted(path.name for path in found if not path.name.endswith(_SIDE_FILES)))

    def _set_aside(self) -> str:
        """Give a damaged file another name, so that neither new messages nor those behind it wait for it."""
        target = f"{self._path}.corrupt-{time.time_ns()}"
        for suffix in (*_SIDE_FILES, ""):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self._path}{suffix}").rename(f"{target}{suffix}")
        lost, self.messages, self.bytes = self.messages, 0, 0
        self._look_for_damaged()
        return f"set aside as {target}" + (f", with up to {lost} messages" if lost else "")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeError, _UnreadableRow) as error:
            with contextlib.suppress(sqlite3.Error):
                self._close()
            text = f"{self._path}: {error}"
            if _is_damage(error):
                with contextlib.suppress(OSError):
                    text += f"; {self._set_aside()}"
            raise SpoolFailed(text) from error


class _UnreadableRow(Exception):
    """A row that this program cannot have written."""


def _is_damage(error: Exception) -> bool:
    """Return whether the file is at fault, and trying again is of no use."""
    if isinstance(error, sqlite3.Error):
        # Our statements are always the same: SQLITE_ERROR means other tables. Text that is not UTF-8 comes
        # without a code.
        return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _DAMAGES
    return not isinstance(error, OSError)


def _row(timestamp: object, digest: object, pubsub: object, content: object, data: object) -> ArchivedRow:
    match timestamp, digest, pubsub, content, data:
        case int(), bytes(), str(), str(), bytes():
            return ArchivedRow(timestamp, digest, topic_key(pubsub, content), pubsub, content, data)
    raise _UnreadableRow("a row of other types")


def _cost(row: ArchivedRow) -> int:
    return len(row.data) + len(row.content_topic) + ROW_OVERHEAD
