"""Open the database file: lock, connection, schema, identity, and the state that is kept in memory.

What can be wrong with the file, and how it is handled:

- Another process has it open: `DatabaseLockedError`.
- It has a later schema, or is another program's database: `DatabaseTooNewError`, `NotOurDatabaseError`;
  refused, untouched.
- A backup was restored while the old write-ahead log stayed: `LeftoverLogError`; refused, untouched.
- It is not readable as a database, its content makes no sense, or an earlier run found damage and the check
  now fails: it is moved aside (`….corrupt-<time>`) and a new one is created, with a new database id, no apps,
  hence new stream ids.
- It may lack events that an app has seen: it is kept, but every stream gets a new id (`identity`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from logos_process.lock import try_lock
from mapi_proc.database.errors import DatabaseLockedError, DatabaseUnavailableError
from mapi_proc.database.identity import mark_clean, settle_identity
from mapi_proc.database.reader import load_snapshot
from mapi_proc.database.records import DamagedError, OutboxState, Snapshot, check_row
from mapi_proc.database.schema import migrate
from mapi_proc.database.sidecar import Counts, FileWatch, beside, check_leftover_log

log = logging.getLogger(__name__)

_CORRUPT: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_HOST: Final = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_INTERRUPT,
)
_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@dataclass(slots=True)
class OpenedFile:
    """An open database: the writer's connection, the descriptors of the lock and of the write-ahead log, and
    the restored state."""

    path: Path
    connection: sqlite3.Connection
    lock: int
    log: int
    next_payload_id: int
    watch: FileWatch
    counts: Counts
    snapshot: Snapshot


# sqlite3 looks for an adapter for each parameter that is not a plain number or text, which takes longer than
# binding it. What it finds here at once costs next to nothing.
sqlite3.register_adapter(bytes, bytes)
sqlite3.register_adapter(bool, int)
sqlite3.register_adapter(OutboxState, int)
sqlite3.register_adapter(type(None), {None: None}.get)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a connection with this project's pragmas. It may be used from any one thread at a time."""
    connection = sqlite3.connect(
        path, timeout=1.0, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        else:
            # WAL: readers do not wait for the writer, and a commit is one sequential write.
            connection.execute("PRAGMA journal_mode = WAL")
            # The writer checkpoints, between commits: `.written` describes the main file as it left it.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            # A log that a long read made long is truncated when it restarts.
            connection.execute("PRAGMA journal_size_limit = 16777216")
            connection.execute("PRAGMA synchronous = NORMAL")
            # Some distributions build SQLite to overwrite what is deleted: twice the writing for a journal.
            connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA cache_size = -8192")
    except sqlite3.Error:
        connection.close()
        raise
    except UnicodeDecodeError as error:  # SQLite's message quotes the damaged schema, and is not UTF-8
        connection.close()
        corrupt = sqlite3.DatabaseError("the schema is damaged")
        corrupt.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise corrupt from error
    return connection


def open_file(
    path: Path, *, random: Callable[[int], bytes], now: int, boot_id: str | None = None
) -> OpenedFile:
    """Open or create the database. Blocks; the module docstring says how a damaged file is handled.

    `boot_id` identifies one boot of the host (read from the system by default). Raises only `DatabaseError`s.
    """
    try:
        with _locked(path):
            check_leftover_log(path)
        if path.with_name(path.name + ".damaged").exists() and not _check(path):
            _move_aside(path, now, "it failed the integrity check")
        try:
            return _open(path, random, boot_id)
        except (sqlite3.DatabaseError, DamagedError) as error:
            if not isinstance(error, DamagedError) and not is_corruption(error):
                raise
            _move_aside(path, now, str(error))
            return _open(path, random, boot_id)
    except (OSError, sqlite3.Error) as error:
        raise DatabaseUnavailableError(f"cannot open {path}: {error}") from error


def is_corruption(error: BaseException) -> bool:
    """Return True if SQLite reports that the file is damaged or not a database."""
    return isinstance(error, sqlite3.Error) and _is(error, _CORRUPT)


def is_host_fault(error: BaseException) -> bool:
    """Return True if the host or another process is at fault: the file may be sound."""
    return isinstance(error, sqlite3.Error) and _is(error, _HOST)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Decode SQLite's message, which may quote damaged names that are not UTF-8."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DamagedError(f"what SQLite says of it cannot be read: {error}") from error


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """Treat an error of fixed statements on a schema of the right version as damage.

    A flipped bit can show as a missing table, as text that is not UTF-8, or as a value of another type.
    """
    try:
        yield
    except sqlite3.Error as error:
        if is_host_fault(error):
            raise
        raise DamagedError(str(error)) from error
    except (TypeError, ValueError, OverflowError) as error:
        raise DamagedError(f"a value makes no sense: {error}") from error


def close_file(opened: OpenedFile) -> None:
    """Mark the database as cleanly closed and release it.

    Never raises: a failure is logged, and only costs a new stream id.
    """
    try:
        opened.connection.execute("PRAGMA synchronous = FULL")
        mark_clean(opened.connection)
        opened.watch.checkpointing()
        opened.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except (sqlite3.Error, OSError) as error:
        log.warning("the database could not be marked as cleanly closed: %s", error)
    finally:
        # The lock goes last: closing any descriptor of the file drops SQLite's own locks on it.
        with contextlib.suppress(sqlite3.Error):
            opened.connection.close()
        opened.watch.close()
        os.close(opened.log)
        os.close(opened.lock)


def mark_corrupt(path: Path) -> None:
    """Record that SQLite found damage in the open database: the next start checks it."""
    try:
        path.with_name(path.name + ".damaged").touch(mode=0o600)
    except OSError as error:
        log.warning("cannot note that %s is damaged: %s", path, error)


def _is(error: sqlite3.Error, codes: tuple[int, ...]) -> bool:
    return getattr(error, "sqlite_errorcode", -1) & 0xFF in codes


def _open(path: Path, random: Callable[[int], bytes], boot_id: str | None) -> OpenedFile:
    lock = _lock(path)
    connection, log_file = None, -1
    try:
        with _readable():
            connection = connect(path)
            migrate(connection)
        with _damage():
            database_id, counts, place = settle_identity(connection, path, random, boot_id)
            snapshot = load_snapshot(connection, database_id)
            (shared,) = check_row(
                connection.execute(
                    "SELECT max((SELECT ifnull(max(id), 0) FROM payload),"
                    " (SELECT ifnull(max(payload_id), 0) FROM journal))"
                ).fetchone(),
                int,
            )
        # The start's synced commit has written the log, and SQLite has synced its directory entry with it.
        log_file = os.open(beside(path, "-wal"), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        watch = FileWatch(path, lock, log_file, counts, place)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if log_file >= 0:
            os.close(log_file)
        os.close(lock)
        if isinstance(error, sqlite3.Error) and _is(error, _BUSY):
            raise DatabaseLockedError(f"{path} is in use by another process") from error
        raise
    return OpenedFile(path, connection, lock, log_file, shared + 1, watch, counts, snapshot)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = _lock(path)
    try:
        yield
    finally:
        os.close(lock)


def _lock(path: Path) -> int:
    # flock, not SQLite's record locks: those let a second process in between two transactions. SQLite gives
    # the -wal and -shm files the mode of this one.
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not try_lock(lock):
            raise DatabaseLockedError(f"{path} is in use by another process")
        os.fchmod(lock, 0o600)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _check(path: Path) -> bool:
    try:
        with contextlib.closing(connect(path)) as connection:
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except UnicodeDecodeError:
        return False
    except sqlite3.DatabaseError as error:
        if is_corruption(error):
            return False
        raise
    if verdict == "ok":
        path.with_name(path.name + ".damaged").unlink(missing_ok=True)
    return bool(verdict == "ok")


def _move_aside(path: Path, now: int, reason: str) -> None:
    with _locked(path):
        target = f"{path.name}.corrupt-{now // 1_000_000_000}"
        log.error(
            "%s is damaged (%s): moved to %s; named apps, their streams and unfinished sends start over",
            path,
            reason,
            target,
        )
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(path.with_name(target + suffix))
        path.with_name(path.name + ".damaged").unlink(missing_ok=True)
