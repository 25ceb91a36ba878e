"""The settings of an archive: its database, the retention policy, and memory limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ipc_schema.config.archive import DEFAULT_RETENTION, ArchiveDatabase, RetentionPolicy, parse_retention


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveSettings:
    """Settings of an archive. Durations in seconds, sizes in bytes."""

    database: ArchiveDatabase
    retention: RetentionPolicy = field(default_factory=lambda: parse_retention(DEFAULT_RETENTION))
    read_database: ArchiveDatabase | None = None
    """A replica in PostgreSQL that pages are read from."""
    spool: Path | None = None
    """The file in which messages wait while the database is away; None: only in memory."""
    spool_bytes: int = 1 << 30
    max_connections: int = 8
    """Maximum database connections, including the writer's; at least 2. SQLite uses at most 5."""
    migrate: bool = True
    """False: reject a database with an older schema instead of migrating it."""
    vacuum: bool = False
    """Rewrite the database once on opening, to return space to the system."""
    queue_messages: int = 50_000
    queue_bytes: int = 64 << 20
    """Maximum bytes waiting to be stored, also while the database is unavailable; more is refused and
    counted."""
    waiting_queries: int = 64
    """Maximum queries waiting for a connection; more raise `ArchiveBusy`."""
    query_timeout: float = 10.0
    retention_interval: float = 300.0
    """Between retention runs; sooner after an error or many new messages."""
