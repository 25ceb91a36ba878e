"""The SQLite file: connections, schema, migrations, and the meaning of SQLite's errors.

Committed messages survive a kill of the process. `synchronous = NORMAL` means that the last moments may be
lost if the host loses power; the file stays consistent in either case.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final

from kernel_proc.archive.engine import DatabaseFailed

APPLICATION_ID: Final = 0x4C444152  # "LDAR"
PAGE_SIZE: Final = 8192

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """
        CREATE TABLE message (
            id INTEGER PRIMARY KEY,
            timestamp INTEGER NOT NULL,
            hash BLOB NOT NULL,
            topic_key INTEGER NOT NULL,
            pubsub_topic TEXT NOT NULL,
            content_topic TEXT NOT NULL,
            data BLOB NOT NULL
        )
        """,
        # The hash covers the timestamp, so this pair is as unique as the hash alone; presence queries and
        # cursors need only this index.
        "CREATE UNIQUE INDEX message_by_hash ON message (hash, timestamp)",
        "CREATE INDEX message_by_pubsub_topic ON message (pubsub_topic, timestamp, hash)",
        "CREATE INDEX message_by_topics ON message (topic_key, timestamp, hash)",
    ),
)
"""Entry n migrates from version n to n + 1. Only ever append entries."""

SCHEMA_VERSION: Final = len(MIGRATIONS)

_REFUSALS: Final = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeError,
)


_SHORTAGES: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM)


def prepare_file(path: Path) -> None:
    """Create the file, readable by its owner only, if it does not exist; SQLite gives its side files the
    same mode. Raise `OSError`."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def connect(path: Path, *, read_only: bool, cache_bytes: int) -> sqlite3.Connection:
    """Return a connection with our settings, for use by one thread at a time. Raise `sqlite3.Error`."""
    # Never create here: a file removed under a running node must surface as an error.
    mode = "ro" if read_only else "rw"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=2.0,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=64,
    )
    try:
        connection.execute(f"PRAGMA cache_size = {-cache_bytes // 1024}")
        connection.execute("PRAGMA temp_store = MEMORY")
        if not read_only:
            connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint = 4096")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            # Some distributions compile SQLite to overwrite deleted data, which doubles the writes.
            connection.execute("PRAGMA secure_delete = OFF")
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(connection: sqlite3.Connection, path: Path, *, allowed: bool) -> None:
    """Bring the schema up to date atomically, and switch to write-ahead logging.

    Raise `DatabaseFailed` for a file of another program or of a later version, and for an older one unless
    `allowed`; such a file is left unchanged.
    """
    _check(connection, path, allowed=allowed)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _check(connection, path, allowed=allowed)  # another process may have migrated meanwhile
        if version < SCHEMA_VERSION:
            for statements in MIGRATIONS[version:]:
                for statement in statements:
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _check(connection: sqlite3.Connection, path: Path, *, allowed: bool) -> int:
    """Return the schema version, 0 for an empty file. Raise `DatabaseFailed`."""
    version: int
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (tables or version or application):
        raise DatabaseFailed(f"{path} is the database of another program")
    if version > SCHEMA_VERSION:
        raise DatabaseFailed(f"{path} has schema {version}, the latest supported is {SCHEMA_VERSION}")
    if version < SCHEMA_VERSION and tables and not allowed:
        raise DatabaseFailed(f"{path} has schema {version}, {SCHEMA_VERSION} is needed: migrate it")
    return version


def is_refusal(error: Exception) -> bool:
    """Return whether a value is at fault rather than the database: the same row would always fail."""
    return isinstance(error, _REFUSALS)


def is_shortage(error: sqlite3.Error) -> bool:
    """Return whether the file is intact and only space or a lock is missing."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SHORTAGES


def is_interrupt(error: Exception) -> bool:
    """Return whether the statement was interrupted by its deadline."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_INTERRUPT
