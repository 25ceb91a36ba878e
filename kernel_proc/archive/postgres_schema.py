"""The PostgreSQL schema and its versions. Names start with `logos_`, so that nothing else in a shared
database is touched.

Version 1 had a plain table. It works as it is with the same statements; `postgres_upkeep` makes it the first
partition of version 2 in the background.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg

from kernel_proc.archive.partitions import LAST, TABLE, Partition

SCHEMA_LOCK: Final = 0x4C44_4152_0001
STATEMENT_SECONDS: Final = 15

ROW_BYTES: Final = 600
"""Size of a row besides its data and content topic, including indexes (measured with 1 M rows of 1 KiB)."""

SCHEMA_VERSION: Final = 2

_TABLE: Final = (
    f"""
    CREATE TABLE {TABLE} (
        timestamp bigint NOT NULL,
        hash bytea NOT NULL,
        topic_key bigint NOT NULL,
        pubsub_topic bytea NOT NULL,
        content_topic bytea NOT NULL,
        data bytea NOT NULL,
        size integer NOT NULL
    ) PARTITION BY RANGE (timestamp)
    """,
    # Payloads are encrypted: compressing them is wasted time.
    f"ALTER TABLE {TABLE} ALTER COLUMN data SET STORAGE EXTERNAL",
    # A unique index of a partitioned table must contain its key. The hash covers the timestamp, so that the
    # pair is as unique as the hash alone. nwaku has a table of its own that leads from a hash to its
    # timestamp.
    f"CREATE UNIQUE INDEX {TABLE}_key ON {TABLE} (hash, timestamp) INCLUDE (size)",
    f"CREATE INDEX {TABLE}_by_pubsub_topic ON {TABLE} (pubsub_topic, timestamp, hash)",
    f"CREATE INDEX {TABLE}_by_topics ON {TABLE} (topic_key, timestamp, hash)",
)


class SchemaError(Exception):
    """The tables are not usable: of a later version, or of an older one that may not be migrated."""


def prepare_schema(connection: psycopg.Connection[tuple[Any, ...]], *, may_migrate: bool) -> None:
    """Create what does not exist, atomically and by one kernel at a time.

    Raise `SchemaError` or `psycopg.Error`.
    """
    with connection.transaction():
        # Waiting for the lock counts: its holder may hang.
        connection.execute(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'".encode())
        connection.execute("SET LOCAL client_min_messages = warning")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))
        connection.execute("CREATE TABLE IF NOT EXISTS logos_schema (version integer NOT NULL)")
        row = connection.execute("SELECT version FROM logos_schema").fetchone()
        if row is None:
            create_table(connection)
            create_partition(connection, Partition(LAST, None, None))
            connection.execute("INSERT INTO logos_schema VALUES (%s)", (SCHEMA_VERSION,))
            return
    (version,) = row
    if version > SCHEMA_VERSION:
        raise SchemaError(f"the tables have version {version}, this program knows {SCHEMA_VERSION}")
    if version < SCHEMA_VERSION and not may_migrate:
        raise SchemaError(f"the tables have version {version}, {SCHEMA_VERSION} is needed: migrate them")


def create_table(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Create the table, without any partition."""
    for statement in _TABLE:
        connection.execute(statement.encode())


def create_partition(connection: psycopg.Connection[tuple[Any, ...]], partition: Partition) -> None:
    name = partition.name
    connection.execute(f"CREATE TABLE {name} PARTITION OF {TABLE} {partition.bounds}".encode())
    # The default of 20 % means too many dead rows in a large table.
    connection.execute(
        f"""
        ALTER TABLE {name} SET (
            autovacuum_vacuum_scale_factor = 0.05,
            autovacuum_vacuum_insert_scale_factor = 0.05,
            autovacuum_analyze_scale_factor = 0.05
        )
        """.encode()
    )
