"""An archive on more than one server: a replica, the loss of the primary, a pooler in front."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from random import Random

import psycopg
import pytest
import trio

from ipc_schema.config.archive import parse_database_url, parse_retention
from ipc_schema.message import message_hash
from kernel_proc.archive.api import ArchiveState, HistoryQuery
from kernel_proc.archive.engine import DatabaseFailed
from kernel_proc.archive.postgres import INSERT, PostgresEngine, insert_columns
from kernel_proc.archive.postgres_pool import PostgresPool
from kernel_proc.archive.rows import ArchivedRow
from tests.support.aio import trio_test
from tests.support.archive import (
    NOW,
    SHARD,
    Model,
    StateLog,
    all_pages,
    make_message,
    offer,
    offer_all,
    random_message,
    running,
    settings_for,
    stored_numbers,
    upkeep_done,
)
from tests.support.kernel_process import eventually
from tests.support.postgres import PgBouncer, PostgresServer, require_pgbouncer, require_postgres


@pytest.fixture(scope="module")
def primary() -> Iterator[PostgresServer]:
    with PostgresServer(require_postgres()) as server:
        yield server


def count(server: PostgresServer, database: str) -> int:
    """How many messages a server has; the table itself comes by replication, too."""
    if server.execute("SELECT to_regclass('logos_message') IS NULL", database) == [(True,)]:
        return 0
    ((number,),) = server.execute("SELECT count(*) FROM logos_message", database)
    return int(number)


def has_database(server: PostgresServer, name: str) -> bool:
    """Whether a database has come by replication."""
    return server.execute(f"SELECT count(*) FROM pg_database WHERE datname = '{name}'") == [(1,)]


def test_the_loss_of_the_primary_loses_no_message(tmp_path: Path) -> None:
    """Also none that it had committed, but not sent to the replica yet."""
    with (
        PostgresServer(require_postgres()) as primary,
        PostgresServer(require_postgres(), primary=primary) as replica,
    ):
        name = primary.new_database()
        eventually(lambda: has_database(replica, name), 20)
        url = primary.url(name).replace(f":{primary.port}/", f":{primary.port},127.0.0.1:{replica.port}/")
        settings = replace(settings_for(url), spool=tmp_path / "spool", queue_messages=500)

        @trio_test(deadline=60)
        async def run() -> None:
            log = StateLog()
            number = 0
            async with running(settings, log=log) as archive:

                async def offer_to(end: int) -> None:
                    nonlocal number
                    while number < end:
                        if offer(archive, SHARD, make_message(NOW + number)):
                            number += 1
                        else:
                            await trio.sleep(0.005)

                await offer_to(300)
                await archive.flush()
                eventually(lambda: count(replica, name) == 300, 20)
                replica.execute("ALTER SYSTEM SET primary_conninfo = ''")
                replica.execute("SELECT pg_reload_conf()")
                eventually(lambda: not primary.execute("SELECT FROM pg_stat_replication"), 20)
                await offer_to(600)
                await archive.flush()  # stored, as far as the primary is concerned
                primary.stop(signal.SIGKILL)
                await offer_to(3000)  # several times what the queue holds
                await log.reach(ArchiveState.STALLED)
                while archive.backlog().on_disk < 1900:
                    await trio.sleep(0.005)
                assert count(replica, name) == 300
                replica.execute("SELECT pg_promote()")
                await log.reach(ArchiveState.READY)
                await archive.flush()
                assert await stored_numbers(archive) == list(range(3000))
                assert archive.counters["queue_full"] > 0  # waited for, not lost
                assert archive.backlog().on_disk == 0

        run()


def test_kernels_that_write_again_after_a_fail_over_do_not_deadlock(primary: PostgresServer) -> None:
    """Both have stored the same messages, in another order."""
    name = primary.new_database()
    first, second, *held = (ArchivedRow(NOW, bytes([n]) * 32, 0, SHARD, "/c", b"") for n in range(4))
    groups = [second, held[0], first], [first, held[1], second]
    with (
        ExitStack() as opened,
        psycopg.connect(primary.url(name)) as holder,
        ThreadPoolExecutor() as threads,
    ):
        engines = [PostgresEngine(primary.url(name), shown=name) for _ in groups]
        for engine, rows in zip(engines, groups, strict=True):
            opened.callback(engine.close)
            for row in rows:
                engine.insert([row])
        primary.execute("TRUNCATE logos_message", name)
        primary.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE application_name LIKE 'logos-kernel%' AND datname = '{name}'"
        )
        for engine in engines:
            with pytest.raises(DatabaseFailed):
                engine.insert([])
        holder.execute(INSERT, insert_columns(held))  # stops both in the middle
        writing = [threads.submit(engine.insert, []) for engine in engines]
        waiting = f"SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = '{name}'"
        eventually(lambda: len(primary.execute(waiting)) == 2)
        holder.rollback()
        for each in writing:
            each.result()
    assert count(primary, name) == 4


def test_pages_come_from_the_replica_and_without_it_from_the_primary(
    primary: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernel_proc.archive.postgres.REPLICA_PAUSE", 0.0)  # it has no table at first
    name = primary.new_database()
    with PostgresServer(require_postgres(), primary=primary) as replica:
        settings = replace(
            settings_for(primary.url(name)), read_database=parse_database_url(replica.url(name), Path("/"))
        )

        @trio_test(deadline=60)
        async def run() -> None:
            async with running(settings) as archive:

                async def shown(query: HistoryQuery) -> int:
                    return len((await archive.query(query)).messages)

                all_of_them, last = HistoryQuery(), make_message(NOW + 3)
                offer_all(archive, Model(), [(SHARD, make_message(NOW + number)) for number in range(3)])
                await archive.flush()
                eventually(lambda: count(replica, name) == 3, 20)
                replica.execute("SELECT pg_wal_replay_pause()")
                eventually(
                    lambda: replica.execute("SELECT pg_get_wal_replay_pause_state()") == [("paused",)], 20
                )
                assert offer(archive, SHARD, last)
                await archive.flush()
                assert await shown(all_of_them) == 3  # so it is the replica that answers
                # A cursor that the replica does not have yet is one of the primary's.
                assert await shown(HistoryQuery(cursor=message_hash(SHARD, last))) == 3
                replica.stop(signal.SIGKILL)
                while await shown(all_of_them) != 4:  # its processes outlive the first one for a moment
                    await trio.sleep(0.01)
                assert archive.counters["query_failures"] == 0
                assert archive.state is ArchiveState.READY

        run()


def test_a_pooler_in_transaction_mode_in_front(
    primary: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Three kernels share three connections: what belongs to a session would reach another kernel."""
    name = primary.new_database()
    random = Random(1)
    messages = [(f"/waku/2/rs/1/{n % 3}", random_message(random, NOW + n)) for n in range(3000)]
    model = Model()
    with PgBouncer(require_pgbouncer(), primary) as pooler:
        policy = parse_retention("capacity:1000")
        settings = replace(settings_for(pooler.url(name)), retention=policy, retention_interval=0.05)

        @trio_test(deadline=60)
        async def run() -> None:
            log = StateLog()
            async with running(settings, log=log) as a, running(settings) as b, running(settings) as c:
                for at in range(0, len(messages), 300):
                    for archive in (a, b, c):
                        offer_all(archive, model, messages[at : at + 300])
                    for archive in (a, b, c):
                        await archive.flush()
                    await a.query(HistoryQuery(limit=100))
                while primary.execute("SELECT count(*) FROM logos_message", name) != [(1000,)]:
                    await trio.sleep(0.01)
                expected = [d for _, d in sorted((m.timestamp, d) for d, (_, m) in model.rows.items())][
                    -1000:
                ]
                stored = await all_pages(b, HistoryQuery(limit=100, forward=True))
                assert [m.message_hash for m in stored] == expected
                for archive in (a, b, c):
                    assert archive.counters["write_failures"] == 0
                    assert archive.counters["query_failures"] == 0
                # Upkeep gives way to others (on a slow machine), and comes again; nothing else stops it.
                failures = [record for record in caplog.records if record.getMessage() == "retention"]
                assert len(failures) == sum(one.counters["retention_failures"] for one in (a, b, c))
                for record in failures:
                    assert "lock timeout" in str(record.named_values["reason"])  # type: ignore[attr-defined]
                pooler.kill()
                assert offer(a, SHARD, make_message(NOW))
                await log.reach(ArchiveState.STALLED)
                pooler.start()
                await log.reach(ArchiveState.READY)
                assert len((await c.query(HistoryQuery(limit=100))).messages) == 100

        run()


# --- connections ---


def test_a_server_that_hangs_does_not_hold_the_writer_for_ever(
    primary: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen host goes on with TCP, so that no error ever comes: only a new connection may find another."""
    monkeypatch.setattr("kernel_proc.archive.postgres.WRITE_SECONDS", 0.3)
    monkeypatch.setattr("kernel_proc.archive.postgres_pool.GRACE_SECONDS", 0.2)
    name = primary.new_database()

    @trio_test(deadline=60)
    async def run() -> None:
        async with running(settings_for(primary.url(name))) as archive:
            assert offer(archive, SHARD, make_message(NOW))
            await archive.flush()
            frozen = await upkeep_done(primary, name)
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            try:
                assert offer(archive, SHARD, make_message(NOW + 1))
                await archive.flush()
                assert await stored_numbers(archive) == [0, 1]
                assert archive.counters["write_failures"] > 0
            finally:
                for pid in frozen:
                    os.kill(pid, signal.SIGCONT)

    run()


def test_a_connection_that_is_busy_is_not_given_to_another(primary: PostgresServer) -> None:
    pool = PostgresPool(primary.url(primary.new_database()), shown="", wants="any")
    try:
        with pool.connection(10) as connection:
            connection.pgconn.send_query(b"SELECT pg_sleep(10)")
        assert connection.closed
        with pool.transaction(10) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        with pool.connection(10) as again:
            assert again is connection  # what is idle is used again
    finally:
        pool.close()
