"""The message archive of a store node, in SQLite (default) or PostgreSQL.

`make_archive` creates a `MessageArchive` from its settings; `api` has what it takes and returns.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from kernel_proc.archive.api import ArchiveConfigError
from kernel_proc.archive.engine import ArchiveEngine
from kernel_proc.archive.service import MessageArchive
from kernel_proc.archive.settings import ArchiveSettings
from kernel_proc.archive.sqlite import SqliteEngine
from kernel_proc.metrics import Registry
from logos_process.extras import install_command

__all__ = ["make_archive", "make_engine"]

SQLITE_READERS = 4


def make_engine(settings: ArchiveSettings) -> ArchiveEngine:
    """Return the engine for a database URL without opening it. Raise `ArchiveConfigError`."""
    database = settings.database
    readers = max(1, settings.max_connections - 1)
    if database.path is not None:
        return SqliteEngine(
            database.path,
            readers=min(readers, SQLITE_READERS),
            may_migrate=settings.migrate,
            vacuum=settings.vacuum,
        )
    assert database.url is not None
    try:
        # Imported late: only nodes that use PostgreSQL need its driver.
        from kernel_proc.archive.postgres import PostgresEngine
    except ImportError as error:
        raise ArchiveConfigError(
            f"{database.shown}: no PostgreSQL driver ({error}): {install_command('postgres')}"
        ) from error
    replica = settings.read_database
    return PostgresEngine(
        database.url,
        shown=database.shown,
        replica=None if replica is None or replica.url is None else (replica.url, replica.shown),
        readers=readers,
        may_migrate=settings.migrate,
        vacuum=settings.vacuum,
    )


def make_archive(
    settings: ArchiveSettings,
    *,
    registry: Registry | None = None,
    clock: Callable[[], int] = time.time_ns,
    changed: Callable[[], None] = lambda: None,
) -> MessageArchive:
    """Return an archive that is ready to `run`; see `MessageArchive`. Raise `ArchiveConfigError`."""
    return MessageArchive(make_engine(settings), settings, registry=registry, clock=clock, changed=changed)
