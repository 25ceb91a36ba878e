"""What a batch stores is what `load` and the reads give back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mapi_proc.database import (
    BatchRefusedError,
    Database,
    JournalEntry,
    JournalExtent,
    KernelPosition,
    OutboxState,
)
from mapi_proc.database.journal import ROW_BYTES
from tests.support.aio import asyncio_test
from tests.unit.mapi_proc.database.support import STREAM, app_record, send_entry


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Database]:
    database = await Database.open(path / "mapi.sqlite3")
    try:
        yield database
    finally:
        await database.close()


async def page(
    database: Database,
    app_id: int,
    after: int = 0,
    up_to: int = 1 << 39,
    size: int = 1 << 20,
    count: int = 999,
) -> list[JournalEntry]:
    done: asyncio.Future[list[JournalEntry]] = asyncio.get_running_loop().create_future()
    database.read_page(app_id, after, up_to, size, count, done.set_result)
    return await done


async def rows(database: Database, table: str) -> int:
    def count(connection) -> int:  # type: ignore[no-untyped-def]
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    return await database.read(count)


@asyncio_test()
async def test_everything_comes_back_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        identity = database.database_id
        batch = database.batch()
        batch.create_app(app_record())
        batch.subscribe(1, ["/a/1/x/proto", "/a/1/y/proto"])
        batch.journal(1, 1, 100, b"head1", b"payload1")
        batch.journal(1, 2, 110, b"head2", b"")
        batch.position(KernelPosition("m/1/0", b"i" * 16, b"e" * 8, 7, 90))
        batch.remember(0, 100, b"a" * 32 + b"b" * 32)
        batch.put_send(send_entry())
        batch.note("rate", b"\x01")
        await database.commit(batch)
    async with opened(tmp_path) as database:
        assert database.database_id == identity
        snapshot = await database.load()
        assert snapshot.apps == [app_record()]
        assert snapshot.subscriptions == {1: ["/a/1/x/proto", "/a/1/y/proto"]}
        assert snapshot.extents == {1: [JournalExtent(2, 18, 110)]}
        assert snapshot.positions == {"m/1/0": KernelPosition("m/1/0", b"i" * 16, b"e" * 8, 7, 90)}
        assert snapshot.hashes == [(0, 100, b"a" * 32 + b"b" * 32)]
        assert snapshot.outbox == [send_entry()]
        assert snapshot.notes == {"rate": b"\x01"}
        assert (snapshot.next_app_id, snapshot.next_entry_id) == (2, 2)
        assert await page(database, 1) == [(1, b"head1", b"payload1"), (2, b"head2", b"")]


@asyncio_test()
async def test_many_rows_in_one_batch(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        batch = database.batch()
        batch.create_app(app_record())
        numbers = range(1, 600, 2)  # none follows another: a row each, more than one chunk of every size
        for seq in numbers:
            batch.journal(1, seq, seq, b"h%d" % seq, b"p%d" % seq)
        await database.commit(batch)
        assert await rows(database, "journal") == 300
        assert await page(database, 1) == [(seq, b"h%d" % seq, b"p%d" % seq) for seq in numbers]


@asyncio_test()
async def test_the_events_of_an_app_in_a_batch_are_few_rows(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        events = [(seq, b"h%d" % seq, bytes([seq]) * (seq * 100)) for seq in range(1, 60)]
        for part in (events[:50], events[50:]):
            batch = database.batch()
            for seq, header, payload in part:
                batch.journal(1, seq, 1000 - seq, header, payload)
                batch.journal(2, seq, seq, header, b"")
            await database.commit(batch)
        total = sum(len(payload) for _, _, payload in events)
        assert await rows(database, "journal") <= 2 + 2 + total // (ROW_BYTES - 6_000)
        assert await page(database, 1) == events
        assert await page(database, 1, after=7, up_to=9) == events[7:9]
        assert await page(database, 1, after=20, count=2) == events[20:22]
        assert [entry.payload for entry in await page(database, 2)] == [b""] * 59
        snapshot = await database.load()
        assert sum(extent.cost for extent in snapshot.extents[1]) == total + sum(
            len(one[1]) for one in events
        )
        assert snapshot.extents[2][-1] == JournalExtent(59, snapshot.extents[2][-1].cost, 59)
        assert snapshot.extents[1][0].newest == 999, "the newest of them, whatever their order"
        batch = database.batch()
        batch.ack(1, 7)
        batch.ack(2, 59)
        await database.commit(batch)
        assert (await page(database, 1, after=7))[0].seq == 8
        assert await page(database, 2) == []


@asyncio_test()
async def test_a_page_is_bounded_but_never_empty_while_there_is_something(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        batch = database.batch()
        for seq in range(1, 11):
            batch.journal(1, seq, seq, b"h", b"p" * 99)
            batch.journal(2, seq, seq, b"other", b"")
        await database.commit(batch)
        assert [entry.seq for entry in await page(database, 1, count=4)] == [1, 2, 3, 4]
        assert [entry.seq for entry in await page(database, 1, after=4, size=300)] == [5, 6, 7]
        assert [entry.seq for entry in await page(database, 1, after=7, size=1)] == [8]
        assert [entry.seq for entry in await page(database, 1, after=8, up_to=9)] == [9]
        assert await page(database, 1, after=10) == []


@asyncio_test()
async def test_an_ack_frees_the_journal_and_shared_payloads_go_with_the_last_reader(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        batch = database.batch()
        batch.create_app(app_record(1, "one"))
        batch.create_app(app_record(2, "two", b"t" * 16))
        for seq in (1, 2):
            shared = batch.share_payload(b"shared%d" % seq)
            batch.journal(1, seq, 5, b"h1", b"shared%d" % seq, shared)
            batch.journal(2, seq, 5, b"h2", b"shared%d" % seq, shared)
        await database.commit(batch)
        assert await page(database, 2) == [(1, b"h2", b"shared1"), (2, b"h2", b"shared2")]

        batch = database.batch()
        batch.ack(1, 2)
        await database.commit(batch)
        assert await page(database, 1) == []
        assert await page(database, 2) == [(1, b"h2", b"shared1"), (2, b"h2", b"shared2")]
        assert await rows(database, "payload") == 2

        batch = database.batch()
        batch.drop(2, 1, 77, "bytes")
        await database.commit(batch)
        assert await rows(database, "payload") == 1
        snapshot = await database.load()
        assert [(app.acked, app.dropped, app.dropped_at, app.drop_reason) for app in snapshot.apps] == [
            (2, 0, 0, ""),
            (0, 1, 77, "bytes"),
        ]
        assert snapshot.extents[2] == [JournalExtent(2, 9, 5)]


@asyncio_test()
async def test_payload_ids_are_never_used_twice(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        batch = database.batch()
        first = batch.share_payload(b"x")
        await database.commit(batch)
    async with opened(tmp_path) as database:
        assert database.batch().share_payload(b"y") > first


@asyncio_test()
async def test_a_forgotten_app_is_gone_with_its_journal(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        batch = database.batch()
        batch.create_app(app_record())
        batch.create_app(app_record(2, "other", b"t" * 16))
        batch.subscribe(1, ["/a/1/x/proto"])
        for seq in range(1, 3000, 2):  # a row each
            batch.journal(1, seq, 5, b"h", b"p")
        batch.journal(2, 1, 5, b"h", b"p")
        await database.commit(batch)
        batch = database.batch()
        batch.forget_app(1)
        await database.commit(batch)
        snapshot = await database.load()
        assert [app.app_id for app in snapshot.apps] == [2]
        assert 1 not in snapshot.subscriptions
        # The journal goes piece by piece, between other commits, and at the latest in the next run.
    async with opened(tmp_path) as database:
        while await rows(database, "journal") > 1:
            await database.commit(database.batch())
        assert [entry.seq for entry in await page(database, 2)] == [1]


@asyncio_test()
async def test_outbox_states(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        batch = database.batch(durable=True)
        batch.put_send(send_entry(1, b"1" * 16))
        batch.put_send(send_entry(2, b"2" * 16))
        batch.put_send(send_entry(3, b"3" * 16))
        await database.commit(batch)
        batch = database.batch()
        batch.change_send(
            1,
            OutboxState.PROPAGATED,
            attempts=2,
            timestamp=5,
            message_hash=b"h" * 32,
            first_attempt=6,
            propagated=7,
        )
        batch.finish_send(2, OutboxState.FAILED, 99, "why")
        batch.finish_send(2, OutboxState.SENT, 100)  # the first final state holds
        batch.finish_send(3, OutboxState.SENT, 100)
        await database.commit(batch)
        expected = send_entry(1, b"1" * 16)._replace(
            state=OutboxState.PROPAGATED,
            attempts=2,
            timestamp=5,
            message_hash=b"h" * 32,
            first_attempt=6,
            propagated=7,
        )
        assert (await database.load()).outbox == [expected]
        finished = await database.find_request(STREAM, b"2" * 16)
        assert finished is not None
        assert (finished.state, finished.finished, finished.detail) == (OutboxState.FAILED, 99, "why")
        assert finished.payload == b""

        batch = database.batch()
        batch.evict_requests(before=2_000)
        await database.commit(batch)
        assert await database.find_request(STREAM, b"2" * 16) is None
        assert await database.find_request(STREAM, b"1" * 16) == expected  # pending ones stay
        assert (await database.load()).next_entry_id == 4  # the newest stays: an id is never used twice


@asyncio_test()
async def test_many_sends_propagate_in_one_batch_and_what_is_over_stays_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        batch = database.batch()
        for number in range(1, 101):
            batch.put_send(send_entry(number, number.to_bytes(16)))
        batch.finish_send(50, OutboxState.SENT, 99)
        await database.commit(batch)
        batch = database.batch()
        for number in range(1, 100):
            batch.propagate_send(number)
        await database.commit(batch)
        found = {entry.entry_id: (entry.state, entry.propagated) for entry in (await database.load()).outbox}
    expected = {number: (OutboxState.PROPAGATED, 1) for number in range(1, 100) if number != 50}
    assert found == expected | {100: (OutboxState.PARKED, 0)}


@asyncio_test()
async def test_a_repeated_request_id_is_left_out_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        first, repeats = database.batch(), database.batch()
        first.put_send(send_entry(1))
        await database.commit(first)
        repeats.put_send(send_entry(2, payload=b"another body"))
        repeats.put_send(send_entry(3, b"o" * 16))
        repeats.put_send(send_entry(4, payload=b"another body"))
        await database.commit(repeats)
        assert first.refused_sends == frozenset()
        assert repeats.refused_sends == {2, 4}
        assert [entry.entry_id for entry in (await database.load()).outbox] == [1, 3]
    # What was left out is not counted as written: the next start would take the file for an older copy.
    async with opened(tmp_path) as database:
        assert (await database.load()).next_entry_id == 4


@asyncio_test()
async def test_an_impossible_batch_fails_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        outcome: list[object] = []
        done = asyncio.get_running_loop().create_future()
        for seq, time in ((1, 5), (2, 1 << 70), (3, 5)):  # SQLite has no such integer
            batch = database.batch()
            batch.journal(1, seq, time, b"h", b"p")
            database.submit(batch, lambda seq=seq: outcome.append(seq), outcome.append)  # type: ignore[misc]
        database.submit(database.batch(), lambda: done.set_result(None))
        await done
        assert outcome[0] == 1
        assert isinstance(outcome[1], BatchRefusedError)
        assert outcome[2] == 3
        assert [entry.seq for entry in await page(database, 1)] == [1, 3]
        assert database.counters.refused == 1


@asyncio_test()
async def test_a_name_is_taken_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        batch = database.batch()
        batch.create_app(app_record(1))
        await database.commit(batch)
        batch = database.batch()
        batch.create_app(app_record(2, stream_id=b"x" * 16))
        with pytest.raises(BatchRefusedError):
            await database.commit(batch)


@asyncio_test()
async def test_hashes_are_evicted_by_shard_and_time(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        batch = database.batch()
        for shard, time in ((0, 10), (0, 20), (1, 10), (1, 500)):
            batch.remember(shard, time, b"h" * 32)
        await database.commit(batch)
        batch = database.batch()
        batch.evict_hashes(0, 20)
        batch.clamp_hashes(1, 100)
        await database.commit(batch)
        assert [(row.shard, row.time) for row in (await database.load()).hashes] == [
            (0, 20),
            (1, 10),
            (1, 100),
        ]
