"""Fill an archive's tables in PostgreSQL with millions of messages: valid rows by COPY, from two processes.
The indexes are built afterwards."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from random import Random
from typing import Final

import psycopg

from ipc_schema.message import WakuMessage, encode_message, message_hash
from kernel_proc.archive.partitions import TABLE
from kernel_proc.archive.postgres import insert_columns
from kernel_proc.archive.rows import ArchivedRow, topic_key

SHARDS: Final = 8
CONTENTS: Final = 50
PAYLOAD: Final = 1024
PROCESSES: Final = 2
_AT_ONCE: Final = 20_000
_COLUMNS: Final = {
    "timestamp": "int8",
    "hash": "bytea",
    "topic_key": "int8",
    "pubsub_topic": "bytea",
    "content_topic": "bytea",
    "data": "bytea",
    "size": "int4",
}
_INDEXES: Final = """
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = %s::regclass
"""


def fill(url: str, count: int, start: int, step: int) -> None:
    """Add `count` messages to an empty archive, `step` ns apart from `start` on, in turn of all shards and
    content topics."""
    with psycopg.connect(url, autocommit=True) as connection:
        indexes = connection.execute(_INDEXES, (TABLE,)).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}".encode())
        share = -(-count // PROCESSES)
        parts = [(url, n * share, min(count, (n + 1) * share), start, step) for n in range(PROCESSES)]
        if count <= _AT_ONCE:
            for part in parts:
                _copy(*part)
        else:
            with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
                pool.starmap(_copy, parts)
        connection.execute("SET maintenance_work_mem = '512MB'")
        for _, definition in indexes:
            connection.execute(definition.replace(" ON ONLY ", " ON ").encode())
        connection.execute(f"VACUUM (ANALYZE) {TABLE}".encode())


def _copy(url: str, first: int, end: int, start: int, step: int) -> None:
    statement = f"COPY {TABLE} ({', '.join(_COLUMNS)}) FROM STDIN (FORMAT binary)".encode()
    with psycopg.connect(url, autocommit=True) as connection:
        for at in range(first, end, _AT_ONCE):
            rows = list(_rows(at, min(end, at + _AT_ONCE), start, step))
            with connection.cursor() as cursor, cursor.copy(statement) as copy:
                copy.set_types(list(_COLUMNS.values()))
                for values in zip(*insert_columns(rows), strict=True):
                    copy.write_row(values)


def _rows(first: int, end: int, start: int, step: int) -> Iterator[ArchivedRow]:
    filler = Random(1).randbytes(1 << 20)
    for number in range(first, end):
        pubsub, content = f"/waku/2/rs/1/{number % SHARDS}", f"/bench/1/{number % CONTENTS}/proto"
        at = number * 7919 % (len(filler) - PAYLOAD)
        message = WakuMessage(filler[at : at + PAYLOAD], content, 0, start + number * step)
        digest = message_hash(pubsub, message)
        key = topic_key(pubsub, content)
        yield ArchivedRow(message.timestamp, digest, key, pubsub, content, encode_message(message))
