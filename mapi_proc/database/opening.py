"""Open the database file: lock, connection, schema, identity.

What can be wrong with the file, and what is done about it:

- Another process has it: `DatabaseLockedError`.
- It has a later schema, or is another program's database: `DatabaseTooNewError`, `NotOurDatabaseError`;
  refused, untouched.
- It cannot be read as a database, or an earlier run found damage and the check now fails: it is moved aside
  (`….corrupt-<time>`) and a new one begins: new database id, no apps, hence new stream ids.
- It is older than it was (a copy was put back), or the host died while it was open: it is kept, but every
  stream gets a new id. Journals are committed without fsync, so a seq that an app has already seen could be
  given to another event; and (stream id, seq) names one event for ever. A copy that was put back shows by the
  generation, counted at every start in the database and in a file beside it; a host loss by the boot id.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mapi_proc.database.batch import SEQ_BITS
from mapi_proc.database.errors import DatabaseLockedError, DatabaseUnavailableError
from mapi_proc.database.schema import migrate

__all__ = ["OpenedFile", "close_file", "connect", "is_corruption", "mark_corrupt", "open_file"]

log = logging.getLogger(__name__)

_CORRUPT: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(slots=True)
class OpenedFile:
    """An open database: the writer's connection and the descriptor that holds the lock."""

    path: Path
    connection: sqlite3.Connection
    lock: int
    database_id: bytes
    next_payload_id: int


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a connection with this project's settings. It may be used from any one thread at a time."""
    connection = sqlite3.connect(
        path, timeout=1.0, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        else:
            connection.execute("PRAGMA journal_mode = WAL")
            # The writer checkpoints after it has told of a commit; this is the limit if it does not get to
            # it.
            connection.execute("PRAGMA wal_autocheckpoint = 16384")
            # A log that a long read made long is cut back when it begins anew.
            connection.execute("PRAGMA journal_size_limit = 16777216")
            connection.execute("PRAGMA synchronous = NORMAL")
            # Some distributions build SQLite to overwrite what is deleted: twice the writing for a journal.
            connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA cache_size = -8192")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def open_file(
    path: Path, *, random: Callable[[int], bytes], now: int, boot_id: str | None = None
) -> OpenedFile:
    """Open or make the database. Blocks; see the module for what is done about a damaged one.

    `boot_id` stands for one run of the host (read from the system when not given). Raises `DatabaseError`s
    only.
    """
    if boot_id is None:
        boot_id = _read_boot_id()
    try:
        if path.with_name(path.name + ".damaged").exists() and not _check(path):
            _move_aside(path, now, "it failed the integrity check")
        try:
            return _open(path, random, boot_id)
        except sqlite3.DatabaseError as error:
            if not is_corruption(error):
                raise
            _move_aside(path, now, str(error))
            return _open(path, random, boot_id)
    except (OSError, sqlite3.Error) as error:
        raise DatabaseUnavailableError(f"cannot open {path}: {error}") from error


def is_corruption(error: BaseException) -> bool:
    """True when SQLite says that the file is damaged or no database."""
    return isinstance(error, sqlite3.Error) and _is(error, _CORRUPT)


def close_file(opened: OpenedFile) -> None:
    """Mark the database cleanly closed and give it free. Never raises: what fails is logged, and only costs
    a new stream id.
    """
    try:
        opened.connection.execute("PRAGMA synchronous = FULL")
        _set(opened.connection, "clean", b"1")
        opened.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        log.warning("the database could not be marked as cleanly closed: %s", error)
    finally:
        # The lock goes last: closing any descriptor of the file drops SQLite's own locks on it.
        with contextlib.suppress(sqlite3.Error):
            opened.connection.close()
        os.close(opened.lock)


def mark_corrupt(path: Path) -> None:
    """Note that SQLite found the open database damaged: the next start checks it."""
    try:
        path.with_name(path.name + ".damaged").touch(mode=0o600)
    except OSError as error:
        log.warning("cannot note that %s is damaged: %s", path, error)


def _is(error: sqlite3.Error, codes: tuple[int, ...]) -> bool:
    return getattr(error, "sqlite_errorcode", -1) & 0xFF in codes


def _open(path: Path, random: Callable[[int], bytes], boot_id: str) -> OpenedFile:
    lock = _lock(path)
    connection = None
    try:
        connection = connect(path)
        migrate(connection)
        database_id = _settle_identity(connection, path, random, boot_id)
        (shared,) = connection.execute(
            "SELECT max((SELECT ifnull(max(id), 0) FROM payload),"
            " (SELECT ifnull(max(payload_id), 0) FROM journal))"
        ).fetchone()
    except BaseException as error:
        if connection is not None:
            connection.close()
        os.close(lock)
        if isinstance(error, sqlite3.Error) and _is(error, _BUSY):
            raise DatabaseLockedError(f"{path} is in use by another process") from error
        raise
    return OpenedFile(path, connection, lock, database_id, shared + 1)


def _lock(path: Path) -> int:
    # flock, not SQLite's record locks: those let a second process in between two transactions. SQLite gives
    # the -wal and -shm files the mode of this one.
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fchmod(lock, 0o600)
    except OSError as error:
        os.close(lock)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise DatabaseLockedError(f"{path} is in use by another process") from error
        raise
    return lock


def _check(path: Path) -> bool:
    try:
        with contextlib.closing(connect(path)) as connection:
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if is_corruption(error):
            return False
        raise
    if verdict == "ok":
        path.with_name(path.name + ".damaged").unlink(missing_ok=True)
    return bool(verdict == "ok")


def _move_aside(path: Path, now: int, reason: str) -> None:
    lock = _lock(path)
    try:
        target = f"{path.name}.corrupt-{now // 1_000_000_000}"
        log.error(
            "%s is damaged (%s): moved to %s; named apps, their streams and unfinished sends begin anew",
            path,
            reason,
            target,
        )
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(path.with_name(target + suffix))
        path.with_name(path.name + ".damaged").unlink(missing_ok=True)
    finally:
        os.close(lock)


def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""  # no such thing on this system: then every unclean end counts as a host loss


def _get(connection: sqlite3.Connection, key: str) -> bytes:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return b"" if row is None else bytes(row[0])


def _set(connection: sqlite3.Connection, key: str, value: bytes) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def _settle_identity(
    connection: sqlite3.Connection, path: Path, random: Callable[[int], bytes], boot_id: str
) -> bytes:
    beside = path.with_name(path.name + ".generation")
    try:
        expected = int(beside.read_text())
    except (OSError, ValueError):
        expected = 0
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        database_id = _get(connection, "database_id")
        generation = int(_get(connection, "generation") or b"0")
        if not database_id:
            database_id = random(16)
            _set(connection, "database_id", database_id)
        elif expected > generation:
            log.warning("%s is older than it was at the last start: all app streams get new ids", path)
            _renew_streams(connection, random)
        elif _get(connection, "clean") != b"1" and (
            not boot_id or _get(connection, "boot_id") != boot_id.encode()
        ):
            log.warning("the host stopped while %s was open: all app streams get new ids", path)
            _renew_streams(connection, random)
        generation = max(generation, expected) + 1
        _set(connection, "generation", b"%d" % generation)
        _set(connection, "boot_id", boot_id.encode())
        _set(connection, "clean", b"0")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("PRAGMA synchronous = NORMAL")
    draft = beside.with_name(beside.name + ".new")
    draft.touch(mode=0o600)
    draft.write_text(str(generation))
    draft.replace(beside)
    return database_id


def _renew_streams(connection: sqlite3.Connection, random: Callable[[int], bytes]) -> None:
    for app_id, old in connection.execute("SELECT id, stream_id FROM app").fetchall():
        new = random(16)
        connection.execute("UPDATE app SET stream_id = ? WHERE id = ?", (new, app_id))
        connection.execute("UPDATE outbox SET scope = ? WHERE scope = ?", (new, old))
        bounds = (app_id << SEQ_BITS, (app_id + 1) << SEQ_BITS)
        keys = connection.execute("SELECT key FROM journal WHERE key > ? AND key < ?", bounds).fetchall()
        for (key,) in keys:
            (header,) = connection.execute("SELECT header FROM journal WHERE key = ?", (key,)).fetchone()
            # The stream id is the header's second element, so its first occurrence is the one.
            connection.execute(
                "UPDATE journal SET header = ? WHERE key = ?", (header.replace(old, new, 1), key)
            )
