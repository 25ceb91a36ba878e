"""What an archive is told: where its database is, how much to keep, how much to hold in memory.

URLs: `sqlite://<path>` (nwaku's form; relative to the data directory, or `sqlite:///absolute`) and
`postgres://user:password@host:port/database` (`postgresql://` is the same). Passwords never reach a log:
operators are shown `shown`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from kernel_proc.archive.api import ArchiveConfigError
from kernel_proc.archive.retention import DEFAULT_RETENTION, RetentionPolicy, parse_retention

__all__ = ["DEFAULT_URL", "ArchiveSettings", "Database", "parse_database_url"]

DEFAULT_URL: Final = "sqlite://store.sqlite3"


@dataclass(frozen=True, slots=True)
class Database:
    """Where the messages are: exactly one of `path` (SQLite) and `url` (PostgreSQL) is set."""

    path: Path | None = None
    url: str | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The same for an operator's eyes, without a password."""
        if self.url is None:
            return f"sqlite://{self.path}"
        parts = urlsplit(self.url)
        user = f"{quote(unquote(parts.username))}@" if parts.username else ""
        host = parts.netloc.rpartition("@")[2]
        return f"postgres://{user}{host}{parts.path}"


def parse_database_url(url: str, directory: Path) -> Database:
    """Read a database URL; relative SQLite paths stand in `directory`. Raises `ArchiveConfigError`, whose
    text holds nothing of a URL that may hold a password.
    """
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if separator and scheme == "sqlite":
        path = rest.partition("?")[0]
        if not path or path == ":memory:" or "\0" in path or path.endswith("/"):
            raise ArchiveConfigError(f"database URL {url!r}: sqlite://<path of a file> is needed")
        return Database(path=directory / path)
    if separator and scheme in ("postgres", "postgresql"):
        try:
            parts = urlsplit(url)
            _ = parts.port  # reading it checks it
        except ValueError as error:
            raise ArchiveConfigError(f"database URL: {scheme}://…: {error}") from None
        if not parts.path.strip("/"):
            raise ArchiveConfigError(f"database URL: {scheme}://…: the database's name is missing")
        return Database(url=url)
    raise ArchiveConfigError("database URL: sqlite://<path> or postgres://user:password@host:port/name")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveSettings:
    """Everything about one archive. Times in seconds, sizes in bytes."""

    database: Database
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
