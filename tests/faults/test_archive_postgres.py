"""A shared archive's server that goes away, crashes, freezes, refuses; kernels that share one database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import trio

from ipc_schema.config.archive import parse_retention
from ipc_schema.message import message_hash
from kernel_proc.archive.api import ArchiveState, ArchiveUnavailable, HistoryQuery
from kernel_proc.archive.settings import ArchiveSettings
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
from tests.support.postgres import PASSWORD, PostgresServer, require_postgres


@pytest.fixture
def settings(postgres: PostgresServer) -> ArchiveSettings:
    return settings_for(postgres.url(postgres.new_database()))


# --- the server is lost ---


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
def test_server_lost_and_back(
    postgres: PostgresServer, settings: ArchiveSettings, how: signal.Signals
) -> None:
    @trio_test(deadline=60)
    async def run() -> None:
        log = StateLog()
        async with running(replace(settings, queue_messages=500), log=log) as archive:
            for number in range(100):
                assert offer(archive, SHARD, make_message(NOW + number))
            await archive.flush()
            assert len((await archive.query(HistoryQuery(limit=100))).messages) == 100
            postgres.stop(how)
            try:
                accepted = 100
                while offer(archive, SHARD, make_message(NOW + accepted)):
                    accepted += 1
                assert accepted == 600
                reason = await log.reach(ArchiveState.STALLED)
                assert PASSWORD not in reason
                with pytest.raises(ArchiveUnavailable) as refused:
                    await archive.query(HistoryQuery())
                assert refused.value.retriable
                counters = archive.counters
                assert counters["queue_full"] == 1
                assert counters["write_failures"] >= 1
            finally:
                postgres.start()
            await log.reach(ArchiveState.READY)
            await archive.flush()
            assert await stored_numbers(archive) == list(range(accepted))

    run()


def test_server_lost_without_any_messages_shows(postgres: PostgresServer, settings: ArchiveSettings) -> None:
    @trio_test(deadline=60)
    async def run() -> None:
        log = StateLog()
        async with running(settings, log=log):
            postgres.stop()
            try:
                await log.reach(ArchiveState.STALLED)
            finally:
                postgres.start()
            await log.reach(ArchiveState.READY)

    run()


def test_idle_connections_that_died_cost_no_query(
    postgres: PostgresServer, settings: ArchiveSettings
) -> None:
    @trio_test(deadline=60)
    async def run() -> None:
        async with running(settings) as archive:
            offer(archive, SHARD, make_message(NOW))
            await archive.flush()
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(archive.query, HistoryQuery())
            postgres.stop()
            postgres.start()
            for _ in range(10):
                assert len((await archive.query(HistoryQuery())).messages) == 1
            assert archive.counters["query_failures"] == 0

    run()


def test_frozen_server_shows_and_holds_nothing_up(
    postgres: PostgresServer, settings: ArchiveSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernel_proc.archive.writer.SILENCE_SECONDS", 1.0)
    assert settings.database.url is not None
    database = settings.database.url.rpartition("/")[2]

    @trio_test(deadline=60)
    async def run() -> None:
        log = StateLog()
        async with running(settings, log=log) as archive:
            offer(archive, SHARD, make_message(NOW))
            await archive.flush()
            await archive.query(HistoryQuery())
            pids = await upkeep_done(postgres, database)
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            try:
                offer(archive, SHARD, make_message(NOW + 1))
                assert "no response" in await log.reach(ArchiveState.STALLED)
                offer(archive, SHARD, make_message(NOW + 2))
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
            await log.reach(ArchiveState.READY)
            await archive.flush()
            assert await stored_numbers(archive) == [0, 1, 2]

    run()


def test_a_frozen_server_does_not_keep_the_node_from_ending(
    postgres: PostgresServer, settings: ArchiveSettings
) -> None:
    pids: list[int] = []

    @trio_test()
    async def run() -> None:
        async with running(settings) as archive:
            await archive.flush()
            backends = postgres.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'logos-kernel%'"
            )
            pids.extend(pid for (pid,) in backends)
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            offer(archive, SHARD, make_message(NOW))

    try:
        run()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_tables_dropped_under_a_running_node_are_made_again(
    postgres: PostgresServer, settings: ArchiveSettings
) -> None:
    assert settings.database.url is not None
    name = settings.database.url.rpartition("/")[2]

    @trio_test(deadline=60)
    async def run() -> None:
        async with running(settings) as archive:
            offer(archive, SHARD, make_message(NOW))
            await archive.flush()
            postgres.execute("DROP TABLE logos_message, logos_schema", name)
            offer(archive, SHARD, make_message(NOW + 1))
            await archive.flush()
            # Also what was written in the last minute: it might be a fail-over.
            assert await stored_numbers(archive) == [0, 1]

    run()


@pytest.mark.parametrize("wrong", ["password", "database", "port", "version"])
def test_a_server_that_refuses_is_a_state_with_a_reason(postgres: PostgresServer, wrong: str) -> None:
    name = postgres.new_database()
    url = postgres.url(name)
    if wrong == "password":
        url = url.replace("p%40ss", "wrong")
    elif wrong == "database":
        url = postgres.url("no_such_database")
    elif wrong == "port":
        url = url.replace(str(postgres.port), "1")
    else:
        postgres.execute("CREATE TABLE logos_schema (version integer)", name)
        postgres.execute("INSERT INTO logos_schema VALUES (99)", name)
    says = {
        "password": "password authentication failed",
        "database": "does not exist",
        "port": "refused",
        "version": "99",
    }

    @trio_test()
    async def run() -> None:
        log = StateLog()
        async with running(settings_for(url), log=log, wait=False) as archive:
            reason = await log.reach(ArchiveState.STALLED)
            assert says[wrong] in reason
            assert "wrong" not in reason
            assert offer(archive, SHARD, make_message(NOW))

    run()


# --- several kernels on one database ---


def test_kernels_that_store_the_same_messages(settings: ArchiveSettings) -> None:
    """Three nodes of one network, in one process: each stores everything, in an order of its own."""
    random = Random(1)
    messages = [(f"/waku/2/rs/1/{n % 3}", random_message(random, NOW + n // 2)) for n in range(6000)]
    model = Model()
    for topic, message in messages:
        model.add(topic, message)

    @trio_test(deadline=60)
    async def run() -> None:
        async with running(settings) as a, running(settings) as b, running(settings) as c:
            archives = (a, b, c)
            for at in range(0, len(messages), 300):
                for archive in archives:
                    part = messages[at : at + 300]
                    random.shuffle(part)
                    offer_all(archive, Model(), part)
                await trio.sleep(0)
            for archive in archives:
                await archive.flush()
            counters = [archive.counters for archive in archives]
            assert sum(counted["stored"] for counted in counters) == len(model.rows)
            assert not any(counted["write_failures"] for counted in counters)
            for archive in archives:
                stored = await all_pages(archive, HistoryQuery(limit=100, forward=True))
                assert [m.message_hash for m in stored] == [
                    digest for _, digest in sorted((m.timestamp, h) for h, (_, m) in model.rows.items())
                ]

    run()


def test_kernels_that_remove_together(postgres: PostgresServer, settings: ArchiveSettings) -> None:
    """Each counts and removes what is too much, but not both the same excess."""
    assert settings.database.url is not None
    name = settings.database.url.rpartition("/")[2]
    policy = replace(settings, retention=parse_retention("capacity:500"), retention_interval=0.02)

    async def bounded() -> None:
        while postgres.execute("SELECT count(*) FROM logos_message", name) != [(500,)]:
            await trio.sleep(0.01)

    @trio_test()
    async def run() -> None:
        async with running(policy) as a:
            async with running(policy) as b:
                for number in range(4000):
                    for archive in (a, b):
                        assert offer(archive, SHARD, make_message(NOW + number))
                    if number % 100 == 0:
                        await trio.sleep(0.002)
                await a.flush()
                await b.flush()
                await bounded()
                stored = await all_pages(b, HistoryQuery(limit=100, forward=True, include_data=True))
                assert [m.message.timestamp - NOW for m in stored if m.message] == list(range(3500, 4000))
                for archive in (a, b):
                    assert archive.counters["write_failures"] == 0
                    assert archive.counters["retention_failures"] == 0
            # Whichever of them removed: when it is gone, the other one does.
            for number in range(4000, 5000):
                offer(a, SHARD, make_message(NOW + number))
            await a.flush()
            await bounded()

    run()


WRITER = """
import sys
import trio
from tests.support.archive import NOW, SHARD, make_message, offer, running, settings_for

async def main():
    number = int(sys.argv[2])
    async with running(settings_for(sys.argv[1])) as archive:
        while True:
            for _ in range(50):
                while not offer(archive, SHARD, make_message(NOW + number)):
                    await trio.sleep(0.001)
                number += 1
            await archive.flush()
            print(number, flush=True)

trio.run(main)
"""


def test_kill_of_a_kernel_while_writing(settings: ArchiveSettings) -> None:
    assert settings.database.url is not None
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, settings.database.url, "0"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    for _ in range(30):
        committed = int(process.stdout.readline())
    process.kill()
    committed = max(
        [committed, *(int(line) for line in process.stdout.read().splitlines(keepends=True) if "\n" in line)]
    )
    process.wait()
    process.stdout.close()

    @trio_test()
    async def run() -> None:
        async with running(settings) as archive:
            numbers = await stored_numbers(archive)
            assert numbers == list(range(len(numbers)))
            assert len(numbers) >= committed >= 1500
            # The next one goes on where it ended, and what it sends again is ignored.
            offer(archive, SHARD, make_message(NOW))
            await archive.flush()
            assert archive.counters["duplicates"] == 1

    run()


def test_a_crash_of_the_server_loses_nothing_that_was_reported(tmp_path: Path) -> None:
    with PostgresServer(require_postgres(), fsync="on") as postgres:
        settings = settings_for(postgres.url(postgres.new_database()))

        @trio_test(deadline=60)
        async def run() -> None:
            log = StateLog()
            async with running(settings, log=log) as archive:
                committed = 0
                for round_ in range(3):
                    for _ in range(500):
                        assert offer(archive, SHARD, make_message(NOW + committed))
                        committed += 1
                    await archive.flush()
                    for more in range(500):  # these are under way
                        assert offer(archive, SHARD, make_message(NOW + committed + more))
                    await trio.sleep(0.002 * round_)
                    postgres.stop(signal.SIGQUIT)
                    postgres.start()
                    committed += 500
                await archive.flush()
                numbers = await stored_numbers(archive)
                assert numbers == list(range(committed))

        run()


def test_hash_of_a_message_is_its_key(settings: ArchiveSettings) -> None:
    """Two kernels of different shards: the hash names the pubsub topic too."""
    message = make_message(NOW)
    other = "/waku/2/rs/1/7"

    @trio_test()
    async def run() -> None:
        async with running(settings) as a, running(settings) as b:
            assert offer(a, SHARD, message)
            assert offer(b, other, message)
            await a.flush()
            await b.flush()
            stored = (await a.query(HistoryQuery(include_data=True))).messages
            assert {m.message_hash: m.pubsub_topic for m in stored} == {
                message_hash(SHARD, message): SHARD,
                message_hash(other, message): other,
            }

    run()
