"""What an engine (SQLite, PostgreSQL) is to the archive, and the two ways in which it may fail.

Engines are plain blocking objects, used from worker threads: any of them may write (one waits for the other),
up to `readers` may read beside it. An engine mends itself: after a failure it opens anew, with the next call,
whatever it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from kernel_proc.archive.api import HistoryPage, HistoryQuery
from kernel_proc.archive.rows import ArchivedRow

__all__ = ["ArchiveEngine", "DatabaseFailed", "RowsRefused", "Totals"]


class DatabaseFailed(Exception):
    """The database cannot be used now: full, locked, lost, damaged, of another program. The text is for an
    operator. The same call may succeed later.
    """


class RowsRefused(Exception):
    """The database is well, but one of these rows can never be stored; none of them was."""


class Totals(NamedTuple):
    """How much there is. `bytes` is the space that the messages take, room of removed ones not counted."""

    messages: int
    bytes: int


class ArchiveEngine(Protocol):
    """One database."""

    @property
    def readers(self) -> int:
        """Threads that may read at once."""
        ...

    def open(self) -> None:
        """Connect and bring the schema up to date. Raises `DatabaseFailed`."""
        ...

    def close(self) -> None:
        """Give everything back. Never raises."""
        ...

    def insert(self, rows: Sequence[ArchivedRow]) -> int:
        """Store rows in one transaction; returns how many were new.

        Raises `DatabaseFailed`, `RowsRefused`.
        """
        ...

    def read(self, query: HistoryQuery, timeout: float) -> HistoryPage:
        """One page, within `timeout` seconds. Raises `CursorNotFound`, `DatabaseFailed`."""
        ...

    def claim(self) -> bool:
        """Whether this node is the one that removes old messages, from here until a minute after its last
        `claim` or `remove`. Raises `DatabaseFailed`.

        Two nodes that each counted what is too much, and each removed as much, would remove it twice.
        """
        ...

    def totals(self) -> Totals:
        """Count. May take a while with many messages, and holds nobody up. Raises `DatabaseFailed`."""
        ...

    def remove(self, limit: int, before: int | None = None) -> int:
        """Remove the oldest messages, at most `limit`, in one short transaction; with `before`, only those
        with an earlier timestamp. Returns how many; 0 also when the claim is lost. Raises `DatabaseFailed`.
        """
        ...
