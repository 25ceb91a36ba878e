"""The interface of a database engine (SQLite, PostgreSQL), and the two ways in which it may fail.

Engines are plain blocking objects used from worker threads: writers are serialised, up to `readers` may read
concurrently. An engine recovers by itself: after a failure, the next call reopens whatever it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from kernel_proc.archive.api import HistoryPage, HistoryQuery, KeyQuery, TopicSpan
from kernel_proc.archive.rows import ArchivedRow


class DatabaseFailed(Exception):
    """The database is unusable now: full, locked, lost, damaged, or of another program. The text is for
    the operator; the same call may succeed later."""


class RowsRefused(Exception):
    """The database works, but at least one of the rows can never be stored; none of them was."""


class Totals(NamedTuple):
    """The size of the archive. `bytes` is the space taken by messages, without that of removed ones."""

    messages: int
    bytes: int


class ArchiveEngine(Protocol):
    """One database. What only a shared one needs does nothing unless overridden."""

    readers: int
    """Maximum concurrent reader threads."""

    def open(self) -> None:
        """Connect and bring the schema up to date. Raise `DatabaseFailed`."""

    def close(self) -> None:
        """Release all resources. Never raise."""

    def insert(self, rows: Sequence[ArchivedRow]) -> int:
        """Store rows in one transaction. Return how many were new.

        Raise `DatabaseFailed` or `RowsRefused`.
        """

    def read(self, query: HistoryQuery, timeout: float) -> HistoryPage:
        """Return one page, within `timeout` seconds. Raise `CursorNotFound` or `DatabaseFailed`."""

    def read_keys(self, query: KeyQuery, timeout: float) -> list[tuple[int, bytes]]:
        """Return keys in the query's direction, within `timeout` seconds. Raise `DatabaseFailed`."""

    def spans(self) -> list[TopicSpan]:
        """Count the messages of each pubsub topic. Raise `DatabaseFailed`."""

    def claim(self) -> bool:
        """Return whether this node is now the only one that looks after the database, until `release`.
        Raise `DatabaseFailed`.

        Without the claim, two nodes would each compute the excess and remove it twice.
        """
        return True

    def release(self) -> None:
        """Give the claim up. Never raise."""
        return

    def prepare(self, now: int, keeps: float | None) -> None:  # noqa: ARG002
        """Prepare for the messages to come, and migrate what an older version left. May take long, but blocks
        no other work. Raise `DatabaseFailed`.

        `now`: ns since 1970; `keeps`: for how many seconds messages are kept, about; None: for ever.
        """
        return

    def totals(self) -> Totals:
        """Count the messages. May take long, but blocks no other work. Raise `DatabaseFailed`."""

    def remove(self, excess: int | None, before: int | None) -> int:
        """Remove some of the oldest messages, in one short transaction: of the `excess`, or of those with an
        earlier timestamp than `before`. Return how many; 0: there are none, or the claim was lost. Raise
        `DatabaseFailed`.

        Where messages are removed by partitions, some stay longer than until `before`, and a few more than
        the excess may go.
        """

    def replica_lag(self) -> float | None:
        """Return how many seconds the server that pages are read from is behind; None if it is the one that
        is written to. Raise `DatabaseFailed`."""
        return None
