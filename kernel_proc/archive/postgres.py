"""The shared engine: PostgreSQL, with any number of kernels on one database.

Kernels of one network store the same messages at the same time: a group is inserted by one statement, sorted
by hash, so that concurrent inserts cannot deadlock, and what is there is skipped. One kernel at a time looks
after partitions and removes old messages: `postgres_upkeep`.

Pages may come from a second server, a replica. While it does not answer, the first one serves them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any, Final, TypeVar

import psycopg

from kernel_proc.archive.api import CursorNotFound, HistoryPage, HistoryQuery, KeyQuery, TopicSpan
from kernel_proc.archive.engine import DatabaseFailed, RowsRefused
from kernel_proc.archive.partitions import TABLE
from kernel_proc.archive.plan import Key
from kernel_proc.archive.postgres_pool import Connection, NoResponse, PostgresPool
from kernel_proc.archive.postgres_read import read_keys, read_page, topic_spans
from kernel_proc.archive.postgres_schema import ROW_BYTES, prepare_schema
from kernel_proc.archive.postgres_upkeep import (
    BRIEF_LOCK,
    COUNT_SECONDS,
    LONG_SECONDS,
    PostgresUpkeep,
    lift_bound,
    partitions,
)
from kernel_proc.archive.recent import RecentRows
from kernel_proc.archive.rows import ArchivedRow
from logos_process.logs import fields

log = logging.getLogger(__name__)

T = TypeVar("T")

WRITE_SECONDS: Final = 15.0
REPLICA_PAUSE: Final = 10.0
"""How long a replica that failed is left alone."""
RECENT_AT_ONCE: Final = 1024
CUTS_SECONDS: Final = 60.0
"""How long the bounds of partitions are taken for known. They only make pages cheaper."""

INSERT: Final = """
INSERT INTO logos_message (timestamp, hash, topic_key, pubsub_topic, content_topic, data, size)
SELECT * FROM unnest(
    %b::bigint[], %b::bytea[], %b::bigint[], %b::bytea[], %b::bytea[], %b::bytea[], %b::integer[]
)
ON CONFLICT DO NOTHING
"""

_TIMELINE: Final = "SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"
"""Changes when a replica becomes the primary, which a pooler or an address that moves may hide."""

_LAG: Final = """
SELECT CASE
    WHEN NOT pg_is_in_recovery() OR pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
    ELSE extract(epoch FROM now() - pg_last_xact_replay_timestamp())
END::float8
"""


class PostgresEngine(PostgresUpkeep):
    """An `ArchiveEngine` on a database.

    `url` may contain a password, `shown` must not; `replica` is such a pair for a server to read from.
    `readers` are the connections besides the writer's.
    """

    def __init__(
        self,
        url: str,
        *,
        shown: str,
        replica: tuple[str, str] | None = None,
        readers: int = 7,
        may_migrate: bool = True,
        vacuum: bool = False,
    ) -> None:
        self.readers = readers
        self._may_migrate = may_migrate
        self._vacuum = vacuum
        self._preparing = threading.Lock()
        self._prepared_at: int | None = None
        """The pool's losses when the schema was last found good."""
        super().__init__(PostgresPool(url, shown=shown, wants="read-write", prepare=self._prepare))
        self._replica = replica and PostgresPool(replica[0], shown=replica[1], wants="prefer-standby")
        self._replica_again = 0.0
        self._cuts: tuple[float, list[int]] = (-CUTS_SECONDS, [])
        self._recent = RecentRows()
        self._server: tuple[int, str] | None = None
        """What identifies the server that has all recent rows."""

    # --- lifetime ---

    def open(self) -> None:
        """Connect and bring the schema up to date; with an existing connection, verify that it still
        works."""
        self.insert([])
        if self._vacuum:
            with self._pool.connection(LONG_SECONDS) as connection:  # not in a transaction
                connection.execute(f"VACUUM (ANALYZE) {TABLE}".encode())
            self._vacuum = False

    def close(self) -> None:
        """Close idle connections; those in use are closed when their work ends."""
        for pool in (self._pool, self._replica):
            if pool is not None:
                pool.close()
        self.release()

    def _prepare(self, connection: Connection) -> None:
        with self._preparing:
            if self._prepared_at == self._pool.losses:
                return
            prepare_schema(connection, may_migrate=self._may_migrate)
            self._prepared_at = self._pool.losses

    # --- writing ---

    def insert(self, rows: Sequence[ArchivedRow]) -> int:
        """Store rows in one statement; those whose hash exists are skipped."""
        rows = sorted(rows, key=lambda row: row.message_hash)
        try:
            return self._insert(rows)
        except DatabaseFailed as error:
            cause = error.__cause__
            if not isinstance(cause, psycopg.DataError | psycopg.IntegrityError):
                raise
            if not isinstance(cause, psycopg.errors.CheckViolation):
                raise RowsRefused(str(error)) from cause
        # Not the fault of the rows, but of a cut of the last partition that a kernel did not finish.
        with self._pool.transaction(WRITE_SECONDS, BRIEF_LOCK) as connection:
            lift_bound(connection)
        return self._insert(rows)

    def _insert(self, rows: Sequence[ArchivedRow]) -> int:
        with self._pool.writing(WRITE_SECONDS) as connection:
            asked = connection.execute(_TIMELINE)
            stored = connection.execute(INSERT, insert_columns(rows)) if rows else None
            row = asked.fetchone()
            assert row is not None
            server = (self._pool.losses, str(row[0]))
        if server != self._server:
            self._insert_recent()
            self._server = server
        if rows:
            self._recent.add(rows, time.monotonic())
        return 0 if stored is None else stored.rowcount

    def _insert_recent(self) -> None:
        """Store again what a fail-over may have lost.

        In a transaction of its own and, as each group in `insert`, in the order of hashes: other kernels do
        the same now, with the same messages in other groups.
        """
        groups = list(self._recent)
        rows = sorted(chain.from_iterable(groups), key=lambda row: row.message_hash)
        with self._pool.writing(WRITE_SECONDS) as connection:
            stored = [
                connection.execute(f"{INSERT} RETURNING hash", insert_columns(rows[at : at + RECENT_AT_ONCE]))
                for at in range(0, len(rows), RECENT_AT_ONCE)
            ]
        lost = {digest for cursor in stored for (digest,) in cursor}
        if not lost:
            return
        log.warning("archive: a fail-over lost messages, written again", extra=fields(messages=len(lost)))
        if self._recent.is_short and any(row.message_hash in lost for row in groups[0]):
            log.error("archive: a fail-over lost more messages than this node had kept: logos store sync")

    # --- reading ---

    def read(self, query: HistoryQuery, timeout: float) -> HistoryPage:

        def work(connection: Connection) -> HistoryPage:
            return read_page(connection, query, self._known_cuts(connection))

        return self._read(work, timeout)

    def _known_cuts(self, connection: Connection) -> list[int]:
        now = time.monotonic()
        if now - self._cuts[0] >= CUTS_SECONDS:
            try:
                cuts = [one.low for one in partitions(connection) if one.low is not None]
            except DatabaseFailed:  # a partition that is not ours: upkeep reports it, pages need no bounds
                cuts = []
            self._cuts = now, cuts
        return self._cuts[1]

    def read_keys(self, query: KeyQuery, timeout: float) -> list[Key]:
        """Return keys, from the primary: a replica may lack what we have announced to other stores."""
        return self._read(partial(read_keys, query=query), timeout, replica=False)

    def spans(self) -> list[TopicSpan]:
        """Count using an index."""
        return self._read(topic_spans, COUNT_SECONDS)

    def _read(self, work: Callable[[Connection], T], timeout: float, *, replica: bool = True) -> T:
        if replica and self._replica is not None and time.monotonic() >= self._replica_again:
            try:
                return _twice(self._replica, work, timeout)
            except CursorNotFound:
                pass  # perhaps the replica lags behind
            except DatabaseFailed as error:
                self._replica_again = time.monotonic() + REPLICA_PAUSE
                log.warning("archive replica not readable", extra=fields(reason=error))
        return _twice(self._pool, work, timeout)

    def replica_lag(self) -> float | None:
        """Return how many seconds the replica is behind, about; None without one. Raise `DatabaseFailed`."""
        if self._replica is None:
            return None
        with self._replica.transaction(WRITE_SECONDS) as connection:
            row = connection.execute(_LAG).fetchone()
        return None if row is None else row[0]


def _twice(pool: PostgresPool, work: Callable[[Connection], T], timeout: float) -> T:
    """Run a read. Idle connections may be dead (server restart): retry once on a new one."""
    try:
        with pool.transaction(timeout) as connection:
            return work(connection)
    except DatabaseFailed as error:
        cause = error.__cause__
        too_slow = isinstance(cause, psycopg.errors.QueryCanceled | NoResponse)
        if too_slow or not isinstance(cause, psycopg.OperationalError):
            raise
    with pool.transaction(timeout) as connection:
        return work(connection)


def insert_columns(rows: Sequence[ArchivedRow]) -> tuple[list[Any], ...]:
    """Return the parameters of `INSERT`."""
    return (
        [row.timestamp for row in rows],
        [row.message_hash for row in rows],
        [row.topic_key for row in rows],
        # bytea, because text cannot contain NUL characters but topics can
        [row.pubsub_topic.encode() for row in rows],
        [row.content_topic.encode() for row in rows],
        [row.data for row in rows],
        [len(row.data) + len(row.content_topic) + ROW_BYTES for row in rows],
    )
