"""The PostgreSQL schema and its versions. Names start with `logos_`, so that nothing else in a shared
database is touched."""

from __future__ import annotations

from typing import Any, Final

import psycopg

__all__ = ["ROW_BYTES", "SCHEMA_VERSION", "SchemaError", "migrate"]

MIGRATION_LOCK: Final = 0x4C44_4152_0001

ROW_BYTES: Final = 600
"""Size of a row besides its data and content topic, including indexes (measured with 1 M rows of 1 KiB)."""

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """
        CREATE TABLE logos_message (
            timestamp bigint NOT NULL,
            hash bytea NOT NULL,
            topic_key bigint NOT NULL,
            pubsub_topic bytea NOT NULL,
            content_topic bytea NOT NULL,
            data bytea NOT NULL,
            size integer NOT NULL
        )
        """,
        # Payloads are encrypted: compressing them is wasted time.
        "ALTER TABLE logos_message ALTER COLUMN data SET STORAGE EXTERNAL",
        # The default of 20 % means too many dead rows in a large table.
        """
        ALTER TABLE logos_message SET (
            autovacuum_vacuum_scale_factor = 0.05,
            autovacuum_vacuum_insert_scale_factor = 0.05,
            autovacuum_analyze_scale_factor = 0.05
        )
        """,
        "CREATE UNIQUE INDEX logos_message_by_hash ON logos_message (hash) INCLUDE (timestamp, size)",
        "CREATE INDEX logos_message_by_pubsub_topic ON logos_message (pubsub_topic, timestamp, hash)",
        "CREATE INDEX logos_message_by_topics ON logos_message (topic_key, timestamp, hash)",
        # A single row: the kernel that removes old messages, and the expiry of its lease.
        "CREATE TABLE logos_removal (holder uuid, until timestamptz NOT NULL)",
        "INSERT INTO logos_removal VALUES (NULL, '-infinity')",
    ),
)
"""Entry n migrates from version n to n + 1. Only ever append entries."""

SCHEMA_VERSION: Final = len(MIGRATIONS)


class SchemaError(Exception):
    """The tables are not usable: of a later version, or of an older one that may not be migrated."""


def migrate(connection: psycopg.Connection[tuple[Any, ...]], *, allowed: bool) -> None:
    """Bring the tables up to date atomically, one kernel at a time.

    Raise `SchemaError` or `psycopg.Error`.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
        connection.execute("CREATE TABLE IF NOT EXISTS logos_schema (version integer NOT NULL)")
        row = connection.execute("SELECT version FROM logos_schema").fetchone()
        version = 0 if row is None else row[0]
        if version > SCHEMA_VERSION:
            raise SchemaError(f"the tables have version {version}, this program knows {SCHEMA_VERSION}")
        if version == SCHEMA_VERSION:
            return
        if version and not allowed:
            raise SchemaError(f"the tables have version {version}, {SCHEMA_VERSION} is needed: migrate them")
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement.encode())
        connection.execute("DELETE FROM logos_schema")
        connection.execute("INSERT INTO logos_schema VALUES (%s)", (SCHEMA_VERSION,))
