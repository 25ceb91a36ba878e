"""The partitioned tables in PostgreSQL: created ahead, dropped by retention, made of older tables."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import psycopg
import pytest

from ipc_schema.message import encode_message
from kernel_proc.archive.api import HistoryQuery
from kernel_proc.archive.engine import DatabaseFailed
from kernel_proc.archive.partitions import LAST
from kernel_proc.archive.postgres import PostgresEngine
from kernel_proc.archive.rows import ArchivedRow, topic_key
from tests.integration.test_archive_engines import random_query
from tests.support.archive import Model, random_message
from tests.support.kernel_process import eventually
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.integration

S = 1_000_000_000
WIDTH = 300 * S
START = 1_700_000_100 * S  # a multiple of the width
KEEPS = 7200.0
"""Seconds; the width is the smallest one then."""
VERSION_1 = Path(__file__).parent / "data" / "archive_v1.sql"


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.fixture
def engine(postgres: PostgresServer, database: str) -> Iterator[PostgresEngine]:
    made = PostgresEngine(postgres.url(database), shown="the database")
    yield made
    made.close()


def prepare(engine: PostgresEngine, *times: int) -> None:
    """One round of upkeep at each of these times."""
    engine.open()
    for now in times:
        assert engine.claim()
        engine.prepare(now, KEEPS)
        engine.release()


def rows_of(model: Model) -> list[ArchivedRow]:
    return [
        ArchivedRow(
            message.timestamp,
            digest,
            topic_key(topic, message.content_topic),
            topic,
            message.content_topic,
            encode_message(message),
        )
        for digest, (topic, message) in model.rows.items()
    ]


def spread(count: int, end: int, seed: int = 1, begin: int = START) -> Model:
    """Messages of three shards, all over a time."""
    random, model = Random(seed), Model()
    for _ in range(count):
        model.add(
            f"/waku/2/rs/1/{random.randrange(3)}",
            random_message(random, begin + random.randrange(end - begin)),
        )
    return model


def hashes(engine: PostgresEngine) -> list[bytes]:
    """Everything in the archive, by pages."""
    found: list[bytes] = []
    cursor: bytes | None = None
    while True:
        page = engine.read(HistoryQuery(forward=True, limit=100, cursor=cursor), 5.0)
        found += (message.message_hash for message in page.messages)
        cursor = page.cursor
        if cursor is None:
            return found


def in_order(model: Model) -> list[bytes]:
    return [digest for _, digest in sorted((m.timestamp, d) for d, (_, m) in model.rows.items())]


def names(postgres: PostgresServer, database: str) -> list[str]:
    found = postgres.execute(
        "SELECT relname FROM pg_class JOIN pg_inherits ON oid = inhrelid WHERE relkind = 'r' ORDER BY 1",
        database,
    )
    return [name for (name,) in found]


def test_pages_across_partitions_agree_with_a_naive_model(
    postgres: PostgresServer, database: str, engine: PostgresEngine
) -> None:
    prepare(engine, *(START + number * WIDTH for number in range(0, 12, 2)))
    assert len(names(postgres, database)) == 15
    model = spread(
        600, START + 16 * WIDTH, begin=START - 2 * WIDTH
    )  # also before the first and after the last
    assert engine.insert(rows_of(model)) == len(model.rows)
    assert engine.insert(rows_of(model)) == 0
    random = Random(2)
    digests = list(model.rows)
    for _ in range(300):
        query = random_query(random, model, digests)
        if query.cursor is None or query.cursor in model.rows:
            assert engine.read(query, 5.0) == model.query(query), query
    assert hashes(engine) == in_order(model)
    assert engine.totals().messages == len(model.rows)


def test_retention_by_time_drops_partitions_and_deletes_no_row(
    postgres: PostgresServer, database: str, engine: PostgresEngine
) -> None:
    prepare(engine, START, START + 3 * WIDTH)
    model = spread(400, START + 8 * WIDTH)
    engine.insert(rows_of(model))
    assert engine.claim()
    before = START + 5 * WIDTH // 2
    expired = [d for d, (_, m) in model.rows.items() if m.timestamp < START + 2 * WIDTH]
    assert engine.remove(None, before) == len(expired)
    assert engine.remove(None, before) == 0
    # What has expired since then is in the oldest partition, and goes with it.
    left = [digest for digest in in_order(model) if digest not in expired]
    assert hashes(engine) == left
    late = spread(3, START + WIDTH, seed=3)  # of an expired time: there is a place for it
    assert engine.insert(rows_of(late)) == 3
    assert engine.remove(None, before) == 3
    assert hashes(engine) == left
    engine.release()


def test_retention_by_number_drops_the_oldest_small_partition_and_cuts_a_large_one(
    engine: PostgresEngine,
) -> None:
    prepare(engine, *(START + number * WIDTH for number in range(0, 24, 2)))
    model = spread(1000, START + 24 * WIDTH)
    engine.insert(rows_of(model))
    assert engine.claim()
    assert engine.totals().messages == 1000
    oldest = sum(m.timestamp < START + WIDTH for _, m in model.rows.values())
    assert 1 < oldest < 100
    assert engine.remove(1, None) == oldest  # a partition of many is removed as a whole
    assert hashes(engine) == in_order(model)[oldest:]
    large = spread(700, START + WIDTH, seed=4)
    engine.insert(rows_of(large))
    engine.totals()
    assert engine.remove(5, None) == 5
    assert engine.remove(695 + oldest, None) >= 695
    engine.release()


def test_a_last_partition_in_use_is_cut_while_messages_come_in(
    postgres: PostgresServer, database: str, engine: PostgresEngine
) -> None:
    engine.open()
    model = spread(200, START, begin=START - WIDTH)
    future = spread(3, START + 10**9 * S, seed=9, begin=START + 10**8 * S)
    engine.insert([*rows_of(model), *rows_of(future)])
    prepare(engine, START)
    assert [name for name in names(postgres, database) if name in ("logos_message_first", LAST)] == [
        "logos_message_first",
        LAST,
    ]
    assert postgres.execute(f"SELECT count(*) FROM {LAST}", database) == [(3,)]
    assert hashes(engine) == in_order(model) + in_order(future)
    # A cut that was not finished: the bound it has set must not keep messages out for ever.
    postgres.execute(
        f"ALTER TABLE {LAST} ADD CONSTRAINT logos_message_bound CHECK (false) NOT VALID", database
    )
    more = spread(2, START + 10**9 * S, seed=10, begin=START + 10**8 * S)
    assert engine.insert(rows_of(more)) == 2
    prepare(engine, START + 100 * WIDTH)
    assert hashes(engine) == in_order(model) + sorted(
        [*future.rows, *more.rows], key=lambda d: ({**future.rows, **more.rows}[d][1].timestamp, d)
    )


def test_partitions_are_created_beside_an_insert_without_a_deadlock(
    postgres: PostgresServer, database: str, engine: PostgresEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An insert locks the table, and the partition later: upkeep must not have the partition by then."""
    monkeypatch.setattr("kernel_proc.archive.postgres_upkeep.BRIEF_LOCK", "SET LOCAL lock_timeout = '30s'")
    engine.open()
    assert engine.claim()
    with psycopg.connect(postgres.url(database)) as other, ThreadPoolExecutor(1) as pool:
        other.execute("LOCK TABLE ONLY logos_message IN ROW EXCLUSIVE MODE")
        prepared = pool.submit(engine.prepare, START, KEEPS)
        eventually(lambda: postgres.execute("SELECT pid FROM pg_locks WHERE NOT granted", database), 20)
        other.execute(f"LOCK TABLE {LAST} IN ROW EXCLUSIVE MODE")
        other.commit()
        prepared.result(20)
    engine.release()
    assert len(names(postgres, database)) > 2


def test_one_engine_at_a_time_has_the_claim(
    postgres: PostgresServer, database: str, engine: PostgresEngine
) -> None:
    other = PostgresEngine(postgres.url(database), shown="the database")
    try:
        engine.open()
        assert engine.claim()
        assert not other.claim()
        assert other.remove(10, None) == 0
        engine.release()
        assert other.claim()
        postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
        )
        with pytest.raises(DatabaseFailed):  # and not: removed beside another one
            other.remove(10, None)
        assert engine.claim()
    finally:
        other.close()


def test_tables_of_version_1_are_migrated_in_place(
    postgres: PostgresServer, database: str, engine: PostgresEngine
) -> None:
    for statement in VERSION_1.read_text().split(";"):
        if statement.strip():
            postgres.execute(statement, database)
    engine.open()
    model = spread(500, START, begin=START - WIDTH)
    engine.insert(rows_of(model))  # the table of version 1 is used as it is
    assert hashes(engine) == in_order(model)
    (file,) = postgres.execute("SELECT pg_relation_filenode('logos_message')", database)
    # What a kernel left that was killed while the index was built.
    postgres.execute("CREATE INDEX logos_message_v1_key ON logos_message (size)", database)
    postgres.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'logos_message_v1_key'::regclass", database
    )
    prepare(engine, START)
    assert postgres.execute("SELECT version FROM logos_schema", database) == [(2,)]
    assert hashes(engine) == in_order(model)
    assert engine.insert(rows_of(model)) == 0
    assert [file] == postgres.execute("SELECT pg_relation_filenode('logos_message_first')", database)
    # Every index of the old table is one of the new: none was built under a lock, none is left over.
    assert postgres.execute(
        "SELECT count(*), count(inhparent) FROM pg_index LEFT JOIN pg_inherits ON inhrelid = indexrelid"
        " WHERE indrelid = 'logos_message_first'::regclass",
        database,
    ) == [(3, 3)]
    prepare(engine, START + 2 * WIDTH)
    assert engine.claim()
    assert engine.remove(None, START + 100 * WIDTH) == 500
    engine.release()


def test_tables_of_version_1_are_refused_without_leave_to_migrate(
    postgres: PostgresServer, database: str
) -> None:
    for statement in VERSION_1.read_text().split(";"):
        if statement.strip():
            postgres.execute(statement, database)
    strict = PostgresEngine(postgres.url(database), shown="the database", may_migrate=False)
    with pytest.raises(DatabaseFailed, match="2 is needed"):
        strict.open()
    strict.close()


def test_a_partition_of_another_kind_is_a_failure_of_the_upkeep(
    postgres: PostgresServer, database: str, engine: PostgresEngine
) -> None:
    """The only error that upkeep expects: any other would end the kernel."""
    engine.open()
    postgres.execute("CREATE TABLE strange PARTITION OF logos_message DEFAULT", database)
    assert engine.claim()
    with pytest.raises(DatabaseFailed, match="bounds of another kind"):
        engine.prepare(START, KEEPS)
    model = spread(30, START + WIDTH)
    engine.insert(rows_of(model))
    assert hashes(engine) == in_order(model)  # pages do not need them
