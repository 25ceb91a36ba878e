"""The settings of one archive: its database, how much to keep, and how much to hold in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from ipc_schema.config.archive import DEFAULT_RETENTION, ArchiveDatabase, RetentionPolicy, parse_retention

__all__ = ["ArchiveSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveSettings:
    """Everything about one archive. Times in seconds, sizes in bytes."""

    database: ArchiveDatabase
    retention: RetentionPolicy = field(default_factory=lambda: parse_retention(DEFAULT_RETENTION))
    max_connections: int = 8
    """Connections to the database at once, the writer's included; at least 2. SQLite uses at most 5."""
    migrate: bool = True
    """False: a database of an older schema is refused instead of brought up to date."""
    vacuum: bool = False
    """Rewrite the database once when it is opened, to give space back to the system."""
    queue_messages: int = 50_000
    queue_bytes: int = 64 << 20
    """What may wait to be stored, also while the database is away; more is refused and counted."""
    waiting_queries: int = 64
    """Queries that may wait for a connection; more are `ArchiveBusy`."""
    query_timeout: float = 10.0
    retention_interval: float = 300.0
    """Between two looks at the bounds; sooner after an error or when much has come in."""
