"""The shared engine: PostgreSQL, with any number of kernels on one database.

Every write is a single statement and hence one transaction. Kernels of one network store the same messages at
the same time; rows are inserted sorted by hash, so that concurrent inserts cannot deadlock. One kernel at a
time removes old messages, under a lease stored in the database.

Connections are pooled in this module: there are no more threads than connections, so nothing ever waits for
one, and connection errors surface immediately.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import psycopg
from psycopg import sql

from kernel_proc.archive.api import HistoryPage, HistoryQuery, KeyQuery, TopicSpan
from kernel_proc.archive.engine import DatabaseFailed, RowsRefused, Totals
from kernel_proc.archive.plan import EVERYTHING, Key
from kernel_proc.archive.postgres_read import PUBSUB_TOPICS, read_keys, read_page, topic_spans
from kernel_proc.archive.postgres_schema import ROW_BYTES, SchemaError, migrate
from kernel_proc.archive.rows import ArchivedRow

__all__ = ["PostgresEngine"]

log = logging.getLogger(__name__)

Connection = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")

CONNECT_SECONDS: Final = 5
WRITE_SECONDS: Final = 15.0
COUNT_SECONDS: Final = 300.0
CLAIM_SECONDS: Final = 60

_INSERT: Final = """
INSERT INTO logos_message (timestamp, hash, topic_key, pubsub_topic, content_topic, data, size)
SELECT * FROM unnest(
    %b::bigint[], %b::bytea[], %b::bigint[], %b::bytea[], %b::bytea[], %b::bytea[], %b::integer[]
)
ON CONFLICT DO NOTHING
"""

_REMOVE: Final = f"""
DELETE FROM logos_message WHERE hash IN (
    SELECT hash FROM ({PUBSUB_TOPICS}) AS topic (name)
    CROSS JOIN LATERAL (
        SELECT timestamp, hash FROM logos_message
        WHERE pubsub_topic = topic.name AND (timestamp, hash) < (%b, %b)
        ORDER BY timestamp, hash LIMIT %b
    ) AS oldest
    ORDER BY timestamp, hash LIMIT %b
)
"""  # noqa: S608 (our own text)

_CLAIM: Final = """
UPDATE logos_removal SET holder = %s, until = now() + %s * interval '1 second'
WHERE holder = %s OR until < now()
"""

_TOTALS: Final = "SELECT count(*), coalesce(sum(size), 0)::bigint FROM logos_message"

_SESSION: Final = """
SET plan_cache_mode = force_custom_plan;
SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SET jit = off;
SET client_min_messages = warning
"""
"""Every query has an index that returns its rows in order and can stop early. Without (fresh) statistics,
the planner may prefer to collect and sort all matches: a thousand times the work."""


class PostgresEngine:
    """An `ArchiveEngine` on a database. `url` may contain a password, `shown` must not; `readers` are the
    connections besides the writer's."""

    def __init__(
        self, url: str, *, shown: str, readers: int = 7, may_migrate: bool = True, vacuum: bool = False
    ) -> None:
        self.readers = readers
        self._url = url
        self._shown = shown
        self._may_migrate = may_migrate
        self._vacuum = vacuum
        self._idle: deque[tuple[Connection, float]] = deque()
        """Idle connections with their current statement timeout."""
        self._holder = uuid.uuid4()
        self._migrated = False
        self._closed = False
        self._write_lock = threading.Lock()

    # --- lifetime ---

    def open(self) -> None:
        """Connect and bring the schema up to date; with an existing connection, verify that it still
        works."""
        with self._connection(WRITE_SECONDS) as connection:
            connection.execute("SELECT 1")

    def close(self) -> None:
        """Close idle connections; those in use are closed when their work ends."""
        self._closed = True
        self._forget_idle()

    def _forget_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                _close(self._idle.pop()[0])

    def _connect(self) -> Connection:
        connection = psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            prepare_threshold=None,  # allow a connection pooler in between
            application_name="logos-kernel archive",
            # Detect servers that vanish silently. No effect on a local socket.
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=10_000,
        )
        try:
            connection.execute(_SESSION)
            if not self._migrated:
                with self._write_lock:
                    self._prepare(connection)
        except BaseException:
            _close(connection)
            raise
        return connection

    def _prepare(self, connection: Connection) -> None:
        if self._migrated:
            return
        migrate(connection, allowed=self._may_migrate)
        if self._vacuum:
            connection.execute("VACUUM (ANALYZE) logos_message")
            self._vacuum = False
        self._migrated = True

    @contextlib.contextmanager
    def _connection(self, timeout: float) -> Iterator[Connection]:
        """Provide a connection whose statements are limited to `timeout` seconds."""
        connection: Connection | None = None
        try:
            try:
                connection, current = self._idle.pop()
            except IndexError:
                connection, current = self._connect(), 0.0
            if current != timeout:
                connection.execute(sql.SQL("SET statement_timeout = {}").format(int(timeout * 1000)))
            yield connection
        except psycopg.errors.QueryCanceled as error:
            raise DatabaseFailed(f"the query took longer than {timeout:g} s") from error
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            raise RowsRefused(_text(error)) from error
        except (psycopg.Error, SchemaError) as error:
            # Whatever the error, other connections may be affected: check the schema again and reconnect.
            self._migrated = False
            self._forget_idle()
            if connection is not None:
                _close(connection)
            raise DatabaseFailed(f"{self._shown}: {_text(error)}") from error
        finally:
            if connection is not None and not connection.closed:
                self._give_back(connection, timeout)

    def _give_back(self, connection: Connection, timeout: float) -> None:
        self._idle.append((connection, timeout))
        if self._closed:
            self._forget_idle()

    # --- writing ---

    def insert(self, rows: Sequence[ArchivedRow]) -> int:
        """Store rows in one statement; those whose hash exists are skipped."""
        rows = sorted(rows, key=lambda row: row.message_hash)
        columns = (
            [row.timestamp for row in rows],
            [row.message_hash for row in rows],
            [row.topic_key for row in rows],
            # bytea, because text cannot contain NUL characters but topics can
            [row.pubsub_topic.encode() for row in rows],
            [row.content_topic.encode() for row in rows],
            [row.data for row in rows],
            [len(row.data) + len(row.content_topic) + ROW_BYTES for row in rows],
        )
        with self._connection(WRITE_SECONDS) as connection:
            return connection.execute(_INSERT, columns).rowcount

    def claim(self) -> bool:
        """Acquire or renew the removal lease."""
        with self._connection(WRITE_SECONDS) as connection:
            return self._claim(connection)

    def _claim(self, connection: Connection) -> bool:
        return connection.execute(_CLAIM, (self._holder, CLAIM_SECONDS, self._holder)).rowcount == 1

    def remove(self, limit: int, before: int | None = None) -> int:
        """Remove the oldest messages, provided that the lease is ours."""
        high = EVERYTHING.high if before is None else (before, b"")
        with self._connection(WRITE_SECONDS) as connection, connection.transaction():
            if not self._claim(connection):
                return 0
            return connection.execute(_REMOVE, (*high, limit, limit)).rowcount

    # --- reading ---

    def read(self, query: HistoryQuery, timeout: float) -> HistoryPage:
        """Return one page."""
        return self._read(partial(read_page, query=query), timeout)

    def read_keys(self, query: KeyQuery, timeout: float) -> list[Key]:
        """Return keys."""
        return self._read(partial(read_keys, query=query), timeout)

    def _read(self, work: Callable[[Connection], T], timeout: float) -> T:
        """Run a read. Idle connections may be dead (server restart): retry once on a new one."""
        for attempt in (1, 2):
            try:
                with self._connection(timeout) as connection:
                    return work(connection)
            except DatabaseFailed as error:
                if attempt == 2 or not isinstance(error.__cause__, psycopg.OperationalError):
                    raise
        raise AssertionError("unreachable")

    def spans(self) -> list[TopicSpan]:
        """Count using an index."""
        return self._read(topic_spans, COUNT_SECONDS)

    def totals(self) -> Totals:
        """Count using an index."""
        with self._connection(COUNT_SECONDS) as connection:
            row = connection.execute(_TOTALS).fetchone()
        assert row is not None
        return Totals(row[0], row[1])


def _text(error: Exception) -> str:
    """Return the first line of PostgreSQL's message; later lines quote statements and values."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _close(connection: Connection) -> None:
    with contextlib.suppress(psycopg.Error):
        connection.close()
