"""Connections to PostgreSQL: pooled, every statement in a transaction of its own settings, errors mapped.

Nothing here outlives a transaction on the server: settings are LOCAL, statements are not prepared, locks end
with the transaction. A pooler in transaction mode (PgBouncer) may hence stand in between.

There are no more threads than connections, so nothing ever waits for one, and connection errors surface
immediately.

The server limits each statement (`statement_timeout`), and the client limits the wait for its answer a little
later: a server that hangs (a frozen host, a disk that does not respond) still acknowledges TCP segments, and
enforces no limit. Its connection is then closed, and the next one may lead to another server.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, Final, TypeVar

import psycopg
from psycopg import conninfo
from psycopg.pq import TransactionStatus

from kernel_proc.archive.engine import DatabaseFailed
from kernel_proc.archive.postgres_schema import SchemaError

Connection = psycopg.Connection[tuple[Any, ...]]

T = TypeVar("T")

CONNECT_SECONDS: Final = 5
PREPARE_SECONDS: Final = 20.0
"""For each statement of a new connection's `prepare`."""
GRACE_SECONDS: Final = 5.0
"""How much longer than a statement may take to wait for its answer."""

SETTINGS: Final = """
SET LOCAL plan_cache_mode = force_custom_plan;
SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off;
SET LOCAL jit = off
"""
"""Every query has an index that returns its rows in order and can stop early. Without (fresh) statistics,
the planner may prefer to collect and sort all matches: a thousand times the work."""

WRITE_SETTINGS: Final = "SET LOCAL plan_cache_mode = force_generic_plan"
"""A plan for these very parameters would contain them: the planner copies a group of messages many times."""


class NoResponse(psycopg.OperationalError):
    """The server did not answer in time, not even that it ended the statement."""


class _PatientConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that waits for an answer for `patience` seconds at most."""

    patience = PREPARE_SECONDS

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **options: Any) -> T:
        """Close the connection and raise `NoResponse` after that time."""
        try:
            return super().wait(_limited(gen, self.patience), *args, **options)
        except NoResponse:
            self.close()
            raise


def _limited(steps: Generator[Any, Any, T], seconds: float) -> Generator[Any, Any, T]:
    """Take the steps of psycopg, which asks ten times a second, until one fails for want of time."""
    deadline = time.monotonic() + seconds
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                raise NoResponse(f"no response within {seconds:g} s")
            wanted = steps.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result


class PostgresPool:
    """Connections to one server, or to one of several.

    `wants` is libpq's `target_session_attrs`, unless the URL has its own; `shown` is the URL without its
    password; `prepare` is called with each new connection, in no transaction.
    """

    def __init__(
        self, url: str, *, shown: str, wants: str, prepare: Callable[[Connection], None] = lambda _: None
    ) -> None:
        self._url = url
        self._shown = shown
        self._wants = wants
        self._prepare = prepare
        self._idle: deque[_PatientConnection] = deque()
        self.closed = False
        self.losses = 0
        """How often connections were given up after an error: the server may be another one since."""

    def close(self) -> None:
        """Close idle connections; those in use are closed when their work ends."""
        self.closed = True
        self._forget_idle()

    def _forget_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                _close(self._idle.pop())

    def _connect(self) -> _PatientConnection:
        parameters: dict[str, Any] = {
            "target_session_attrs": self._wants,
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "logos-kernel archive",
            # Detect servers that vanish silently. No effect on a local socket.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
            **conninfo.conninfo_to_dict(self._url),
        }
        connection = _PatientConnection.connect(
            conninfo.make_conninfo(**parameters), autocommit=True, prepare_threshold=None
        )
        try:
            self._prepare(connection)
        except BaseException:
            _close(connection)
            raise
        return connection

    @contextlib.contextmanager
    def connection(self, timeout: float) -> Iterator[Connection]:
        """Provide a connection, outside of a transaction. `timeout`: seconds that a statement may take; only
        `transaction` has the server enforce it.

        Raise `DatabaseFailed`; its cause is the driver's error.
        """
        connection: _PatientConnection | None = None
        try:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connect()
            connection.patience = timeout + GRACE_SECONDS
            yield connection
        except psycopg.errors.QueryCanceled as error:
            raise DatabaseFailed(f"the query took longer than {timeout:g} s") from error
        except (psycopg.errors.LockNotAvailable, psycopg.DataError, psycopg.IntegrityError) as error:
            # The statement failed, the connection did not.
            raise DatabaseFailed(f"{self._shown}: {_text(error)}") from error
        except (psycopg.Error, SchemaError) as error:
            # Whatever the error, other connections may be affected: connect again, which checks the schema.
            self.losses += 1
            self._forget_idle()
            if connection is not None:
                _close(connection)
            raise DatabaseFailed(f"{self._shown}: {_text(error)}") from error
        finally:
            if connection is not None and not connection.closed:
                self._give_back(connection)

    def _give_back(self, connection: _PatientConnection) -> None:
        if connection.info.transaction_status is not TransactionStatus.IDLE:
            # The rollback failed. The next user would be told "another command is already in progress", or
            # find itself in a transaction of another.
            _close(connection)
            return
        self._idle.append(connection)
        if self.closed:
            self._forget_idle()

    @contextlib.contextmanager
    def transaction(self, timeout: float, more: str = "") -> Iterator[Connection]:
        """Provide a connection in a transaction whose statements are limited to `timeout` seconds. `more`:
        further statements to begin with. Raise as `connection`."""
        with self.connection(timeout) as connection:
            begin = f"BEGIN; SET LOCAL statement_timeout = {int(timeout * 1000)}; {SETTINGS}; {more}"
            connection.execute(begin.encode())
            try:
                yield connection
            except BaseException:
                with contextlib.suppress(psycopg.Error):
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def writing(self, timeout: float) -> Iterator[Connection]:
        """Provide a connection in a transaction as `transaction` does, for statements that do not wait for
        each other: their row counts are known at the end. Each wait is a change of processes, on both sides.
        """
        with self.connection(timeout) as connection:
            try:
                with connection.pipeline():
                    for begin in (
                        "BEGIN",
                        f"SET LOCAL statement_timeout = {int(timeout * 1000)}",
                        WRITE_SETTINGS,
                    ):
                        connection.execute(begin.encode())
                    yield connection
                    connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(psycopg.Error):
                    connection.execute("ROLLBACK")
                raise


def _text(error: Exception) -> str:
    """Return the first line of PostgreSQL's message; later lines quote statements and values."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _close(connection: Connection) -> None:
    with contextlib.suppress(psycopg.Error):
        connection.close()
