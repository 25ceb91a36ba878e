"""Upkeep of the tables in PostgreSQL, by one kernel at a time: partitions are created ahead, old ones
dropped, and a table of version 1 becomes the first partition.

That one kernel holds an advisory lock in a transaction which stays open as long as the upkeep takes: a lock
of the session would not survive a pooler in transaction mode. Every step may be interrupted anywhere; the
next round finishes it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from kernel_proc.archive.engine import DatabaseFailed, Totals
from kernel_proc.archive.partitions import (
    FIRST,
    LAST,
    TABLE,
    Partition,
    are_enough,
    expired,
    parse_bounds,
    partition_width,
    partitions_from,
    sealed,
)
from kernel_proc.archive.postgres_pool import Connection, PostgresPool
from kernel_proc.archive.postgres_read import pubsub_topics
from kernel_proc.archive.postgres_schema import SCHEMA_VERSION, create_partition, create_table
from logos_process.logs import fields

log = logging.getLogger(__name__)

UPKEEP_LOCK: Final = 0x4C44_4152_0002
COUNT_SECONDS: Final = 300.0
STEP_SECONDS: Final = 15.0
LONG_SECONDS: Final = 6 * 3600.0
"""For an index on, and a check of, all rows of a table of version 1."""
REMOVED_AT_ONCE: Final = 500
"""Messages deleted singly in one transaction."""
SMALL_SHARE: Final = 10
"""A partition with at most this fraction of all messages is dropped for any excess, however small."""

CLAIM_SECONDS: Final = 900
"""How long a kernel keeps the claim without a sign of life: longer than any other step takes."""

_PATIENT: Final = "SET LOCAL idle_in_transaction_session_timeout = '{}s'"
BRIEF_LOCK: Final = "SET LOCAL lock_timeout = '2s'"
"""All others wait behind a statement that waits for an exclusive lock: give up, and try again later."""

_PARTITIONS: Final = f"""
SELECT part.relname, pg_get_expr(part.relpartbound, part.oid)
FROM pg_inherits JOIN pg_class AS part ON part.oid = inhrelid
WHERE inhparent = to_regclass('{TABLE}')
"""  # noqa: S608 (our own text, as all below)

_TOTALS: Final = f"SELECT count(*), coalesce(sum(size), 0)::bigint FROM {TABLE}"  # noqa: S608

_BOUND: Final = f"{TABLE}_bound"
_HELD: Final = f"{TABLE}_held"
"""Rows dated after the end of a partition that is being cut."""
_OLD_KEY: Final = f"{TABLE}_v1_key"


class PostgresUpkeep:
    """The upkeep part of the engine. Every method may raise what the pool raises."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool
        self._claim: tuple[ExitStack, Connection] | None = None
        self._counted = Totals(0, 0)

    # --- the claim ---

    def claim(self) -> bool:
        """Return whether this kernel is now the one that does the upkeep, until `release`."""
        self.release()
        with ExitStack() as stack:
            connection = stack.enter_context(
                self._pool.transaction(STEP_SECONDS, _PATIENT.format(CLAIM_SECONDS))
            )
            row = connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (UPKEEP_LOCK,)).fetchone()
            if row is None or not row[0]:
                return False
            self._claim = stack.pop_all(), connection
        if self._pool.closed:  # by now, while this thread was left behind
            self.release()
        return self._claim is not None

    def release(self) -> None:
        """Give the claim up."""
        claim, self._claim = self._claim, None
        if claim is not None:
            with contextlib.suppress(DatabaseFailed):  # then it is lost anyway
                claim[0].close()

    def _check_claim(self, statement: str = "SELECT 1") -> bool:
        """Run a statement on the claim's connection. Return whether there is a claim; raise `DatabaseFailed`
        if it was lost with the connection."""
        if self._claim is None:
            return False
        stack, connection = self._claim
        try:
            connection.execute(statement.encode())
        except BaseException as error:
            self._claim = None
            # Leave the contexts with the error, so that the pool closes the connection.
            if not stack.__exit__(type(error), error, error.__traceback__):
                raise
        return True

    @contextlib.contextmanager
    def _long_step(self) -> Iterator[None]:
        """Keep the claim during a step that may take hours. Raise `DatabaseFailed` if it was lost
        nevertheless: the next round, of whichever kernel, goes on."""
        self._allow_idle(CLAIM_SECONDS + LONG_SECONDS)
        yield
        self._allow_idle(CLAIM_SECONDS)

    def _allow_idle(self, seconds: float) -> None:
        if not self._check_claim(_PATIENT.format(int(seconds))):
            raise DatabaseFailed("another kernel may look after the tables now")

    # --- counting ---

    def totals(self) -> Totals:
        """Count with an index of each partition."""
        with self._pool.transaction(COUNT_SECONDS) as connection:
            row = connection.execute(_TOTALS).fetchone()
        assert row is not None
        self._counted = Totals(row[0], row[1])
        return self._counted

    # --- removal ---

    def remove(self, excess: int | None, before: int | None) -> int:
        """Remove some of the oldest messages: whole partitions where that is possible. See
        `ArchiveEngine`."""
        if not self._check_claim():
            return 0
        with self._pool.transaction(COUNT_SECONDS, BRIEF_LOCK) as connection:
            found = partitions(connection) or [Partition(TABLE, None, None)]
            if before is not None:
                gone = expired(found, before)
                removed = sum(_count(connection, partition.name) for partition in gone)
            else:
                assert excess is not None
                gone, removed = self._in_excess(connection, found, excess)
            rest = found[len(gone) :]
            if removed or len(gone) > 1:
                _drop(connection, gone, rest)
        if removed or not (rest[0].is_wide or before is None):
            return removed
        with self._pool.transaction(STEP_SECONDS) as connection:
            limit = REMOVED_AT_ONCE if excess is None else min(excess, REMOVED_AT_ONCE)
            return _delete(connection, rest[0].name, before, limit)

    def _in_excess(
        self, connection: Connection, found: list[Partition], excess: int
    ) -> tuple[list[Partition], int]:
        """Return the oldest partitions that make up the excess, with one that is a little more if it is
        small, and the number of their messages."""
        gone: list[Partition] = []
        removed = 0
        for partition in found[:-1]:
            messages = _count(connection, partition.name)
            small = not partition.is_wide and messages * SMALL_SHARE <= self._counted.messages
            if removed >= excess or (removed + messages > excess and not small):
                break
            gone.append(partition)
            removed += messages
        return gone, removed

    # --- partitions ahead ---

    def prepare(self, now: int, keeps: float | None) -> None:
        """Create partitions for the time to come. `keeps`: for how many seconds messages are kept, about."""
        if not self._check_claim():
            return
        width = partition_width(keeps)
        with self._pool.transaction(STEP_SECONDS) as connection:
            found = partitions(connection)
        if not found:
            self._adopt()
            found = [Partition(LAST, None, None)]
        last = found[-1]
        if are_enough(last, now, width):
            return
        with self._pool.transaction(STEP_SECONDS) as connection:
            in_use = connection.execute(f"SELECT FROM {LAST} LIMIT 1".encode()).fetchone() is not None
        if in_use:
            self._cut(sealed(last, now, width), now, width)
            return
        with self._pool.transaction(STEP_SECONDS, BRIEF_LOCK) as connection:
            # In this order, as inserts do: dropping a partition locks the whole table, too.
            for table in (TABLE, LAST):
                connection.execute(f"LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE".encode())
            if connection.execute(f"SELECT FROM {LAST} LIMIT 1".encode()).fetchone() is None:
                connection.execute(f"DROP TABLE {LAST}".encode())
                for partition in partitions_from(last.low, now, width):
                    create_partition(connection, partition)

    def _cut(self, partition: Partition, now: int, width: int) -> None:
        """Make the last partition, which is in use, one that ends soon.

        PostgreSQL checks all rows of a table that becomes a partition, under a lock, unless a valid
        constraint proves that they belong there. Such a constraint can be checked while the table is used.
        """
        with self._pool.transaction(STEP_SECONDS, BRIEF_LOCK) as connection:
            lift_bound(connection)
            _hold_later(connection, partition)
            connection.execute(
                f"ALTER TABLE {LAST} ADD CONSTRAINT {_BOUND} CHECK ({partition.condition}) NOT VALID".encode()
            )
        with self._long_step(), self._pool.transaction(LONG_SECONDS) as connection:
            connection.execute(f"ALTER TABLE {LAST} VALIDATE CONSTRAINT {_BOUND}".encode())
        with self._pool.transaction(STEP_SECONDS, BRIEF_LOCK) as connection:
            for statement in (
                f"ALTER TABLE {TABLE} DETACH PARTITION {LAST}",
                f"ALTER TABLE {LAST} RENAME TO {partition.name}",
                f"ALTER TABLE {TABLE} ATTACH PARTITION {partition.name} {partition.bounds}",
                f"ALTER TABLE {partition.name} DROP CONSTRAINT {_BOUND}",
            ):
                connection.execute(statement.encode())
            for following in partitions_from(partition.high, now, width):
                create_partition(connection, following)
            if _exists(connection, _HELD):
                connection.execute(
                    f"INSERT INTO {TABLE} SELECT * FROM {_HELD} ON CONFLICT DO NOTHING".encode()  # noqa: S608
                )
                connection.execute(f"DROP TABLE {_HELD}".encode())

    # --- version 1 ---

    def _adopt(self) -> None:
        """Make the table of version 1 the only partition of version 2. Only building its new index takes
        long, and is done while the table is used."""
        with self._pool.transaction(STEP_SECONDS) as connection:
            # A kernel that was killed while it waited for the index: the server goes on with it.
            building = connection.execute(
                "SELECT FROM pg_stat_progress_create_index WHERE relid = to_regclass(%s)", (TABLE,)
            ).fetchone()
            if building is not None:
                raise DatabaseFailed("the server is still building an index for the migration")
            row = connection.execute(
                "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (_OLD_KEY,)
            ).fetchone()
        log.info("archive tables of version 1 are being migrated")
        # CONCURRENTLY: not in a transaction
        with self._long_step(), self._pool.connection(LONG_SECONDS) as connection:
            if row is not None and not row[0]:
                connection.execute(f"DROP INDEX CONCURRENTLY {_OLD_KEY}".encode())
            if row is None or not row[0]:
                columns = "(hash, timestamp) INCLUDE (size)"
                connection.execute(
                    f"CREATE UNIQUE INDEX CONCURRENTLY {_OLD_KEY} ON {TABLE} {columns}".encode()
                )
        with self._pool.transaction(STEP_SECONDS, BRIEF_LOCK) as connection:
            connection.execute(f"ALTER TABLE {TABLE} RENAME TO {LAST}".encode())
            for name in (f"{TABLE}_by_pubsub_topic", f"{TABLE}_by_topics"):
                connection.execute(f"ALTER INDEX {name} RENAME TO {name}_v1".encode())
            create_table(connection)
            whole = Partition(LAST, None, None)
            connection.execute(f"ALTER TABLE {TABLE} ATTACH PARTITION {LAST} {whole.bounds}".encode())
            connection.execute(f"DROP INDEX {TABLE}_by_hash".encode())
            connection.execute("DROP TABLE IF EXISTS logos_removal")
            connection.execute("UPDATE logos_schema SET version = %s", (SCHEMA_VERSION,))
        log.info("archive tables migrated", extra=fields(version=SCHEMA_VERSION))


def partitions(connection: Connection) -> list[Partition]:
    """Return the partitions in order of time; none: the table is one of version 1. Raise `DatabaseFailed`
    if there is one that this program would not make."""
    rows = connection.execute(_PARTITIONS).fetchall()
    try:
        found = [parse_bounds(name, bounds) for name, bounds in rows]
    except ValueError as error:
        raise DatabaseFailed(str(error)) from error
    return sorted(found, key=lambda partition: (partition.low is not None, partition.low))


def lift_bound(connection: Connection) -> None:
    """Let the last partition take messages of any time again, if an unfinished cut forbids that."""
    connection.execute(f"ALTER TABLE IF EXISTS {LAST} DROP CONSTRAINT IF EXISTS {_BOUND}".encode())


def _exists(connection: Connection, name: str) -> bool:
    return connection.execute("SELECT WHERE to_regclass(%s) IS NOT NULL", (name,)).fetchone() is not None


def _count(connection: Connection, name: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {name}".encode()).fetchone()  # noqa: S608
    assert row is not None
    return int(row[0])


def _drop(connection: Connection, gone: list[Partition], rest: list[Partition]) -> None:
    """Drop the oldest partitions. The first one always begins with the beginning of time."""
    connection.execute(f"DROP TABLE {', '.join(partition.name for partition in gone)}".encode())
    create_partition(connection, Partition(FIRST, None, rest[0].low))


def _delete(connection: Connection, name: str, before: int | None, limit: int) -> int:
    """Delete the oldest messages of a table, one after the other."""
    until = "" if before is None else "AND timestamp < %b"
    statement = f"""
        DELETE FROM {name} WHERE hash IN (
            SELECT hash FROM ({pubsub_topics(name)}) AS topic (name)
            CROSS JOIN LATERAL (
                SELECT timestamp, hash FROM {name} WHERE pubsub_topic = topic.name {until}
                ORDER BY timestamp, hash LIMIT %b
            ) AS oldest
            ORDER BY timestamp, hash LIMIT %b
        )
    """  # noqa: S608
    return connection.execute(
        statement.encode(), (*([] if before is None else [before]), limit, limit)
    ).rowcount


def _hold_later(connection: Connection, partition: Partition) -> None:
    """Set aside what the partition, still the last one, has from after its future end."""
    later = f"""
        SELECT hash FROM ({pubsub_topics(LAST)}) AS topic (name)
        CROSS JOIN LATERAL (
            SELECT hash FROM {LAST} WHERE pubsub_topic = topic.name AND timestamp >= {partition.high}
        ) AS later
    """  # noqa: S608
    if connection.execute(f"{later} LIMIT 1".encode()).fetchone() is None:
        return
    if not _exists(connection, _HELD):
        connection.execute(f"CREATE TABLE {_HELD} (LIKE {TABLE})".encode())
    connection.execute(
        f"""
        WITH gone AS (DELETE FROM {LAST} WHERE hash IN ({later}) RETURNING *)
        INSERT INTO {_HELD} SELECT * FROM gone
        """.encode()  # noqa: S608
    )
