"""Order, grouping, bounds, a disk that refuses, closing."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from mapi_proc.database import Database, DatabaseBusyError, DatabaseClosedError, DatabaseState
from mapi_proc.database.store import DatabaseLimits
from tests.support.aio import asyncio_test


@asyncio_test()
async def test_commits_are_reported_in_order_and_grouped(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "db")
    reported: list[int] = []
    done = asyncio.Event()
    for number in range(500):
        batch = database.batch()
        batch.note("last", str(number).encode())
        database.submit(batch, lambda number=number: reported.append(number))  # type: ignore[misc]
    database.submit(database.batch(), done.set)
    assert reported == []  # never before the loop turns
    await done.wait()
    assert reported == list(range(500))
    assert database.counters.commits < 100
    assert (await database.load()).notes == {"last": b"499"}
    assert (database.pending_batches, database.pending_bytes) == (0, 0)
    await database.close()


@asyncio_test()
async def test_listeners_hear_before_the_callback(tmp_path: Path) -> None:
    heard: list[object] = []

    class Listener:
        def committed(self, seq: int) -> None:
            heard.append(seq)

    database = await Database.open(tmp_path / "db")
    done = asyncio.Event()
    batch = database.batch()
    batch.listeners[Listener()] = 7

    def committed() -> None:
        heard.append("committed")
        done.set()

    database.submit(batch, committed)
    await done.wait()
    assert heard == [7, "committed"]
    await database.close()


@asyncio_test()
async def test_one_bad_callback_does_not_silence_the_others(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "db")
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))
    done = asyncio.Event()

    def bad() -> None:
        raise ValueError("bad callback")

    database.submit(database.batch(), bad)
    database.submit(database.batch(), done.set)
    await done.wait()
    assert [str(fault) for fault in faults] == ["bad callback"]
    await database.close()


@asyncio_test()
async def test_a_locked_file_stalls_and_goes_on_with_back_pressure(tmp_path: Path) -> None:
    database = await Database.open(
        tmp_path / "db", limits=DatabaseLimits(pending_batches=4, pending_bytes=1 << 20)
    )
    states: list[DatabaseState] = []
    stalled = asyncio.Event()

    def on_state(state: DatabaseState, reason: str) -> None:
        states.append(state)
        if state is DatabaseState.STALLED:
            assert "locked" in reason
            stalled.set()

    database.on_state = on_state
    reported: list[int] = []
    room = asyncio.Event()
    blocker = sqlite3.connect(tmp_path / "db", isolation_level=None)  # an operator with the sqlite3 shell
    blocker.execute("BEGIN IMMEDIATE")
    for number in range(8):
        assert database.congested is (number >= 4)
        batch = database.batch()
        batch.note(f"n{number}", b"")
        database.submit(batch, lambda number=number: reported.append(number))  # type: ignore[misc]
    with pytest.raises(DatabaseBusyError):
        database.submit(database.batch())
    database.when_room(room.set)
    await stalled.wait()
    assert reported == []
    assert not room.is_set()
    assert database.state is DatabaseState.STALLED
    blocker.execute("ROLLBACK")
    blocker.close()
    await room.wait()
    assert not database.congested
    while len(reported) < 8:
        await database.commit(database.batch())
    assert reported == list(range(8))
    assert len((await database.load()).notes) == 8
    assert states == [DatabaseState.STALLED, DatabaseState.OPEN]
    assert database.counters.stalls >= 1
    await database.close()


@asyncio_test()
async def test_no_pages_left_is_a_full_disk(tmp_path: Path) -> None:
    """SQLite's own page limit raises the same error as a full disk (SQLITE_FULL)."""
    database = await Database.open(tmp_path / "db")
    connection = database._opened.connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 4}")
    stalled, done = asyncio.Event(), asyncio.Event()
    database.on_state = lambda state, _: stalled.set() if state is DatabaseState.STALLED else None
    batch = database.batch()
    batch.note("big", b"x" * 100_000)
    database.submit(batch, done.set)
    await stalled.wait()
    assert "full" in database.state_reason
    assert not done.is_set()
    connection.execute("PRAGMA max_page_count = 100000")
    await done.wait()
    assert (await database.load()).notes["big"] == b"x" * 100_000
    await database.close()


@asyncio_test()
async def test_close_stores_what_is_queued_and_refuses_more(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "db")
    for number in range(100):
        batch = database.batch()
        batch.note(f"n{number}", b"")
        database.submit(batch)
    await database.close()
    await database.close()
    with pytest.raises(DatabaseClosedError):
        database.submit(database.batch())
    assert database.state is DatabaseState.CLOSED
    again = await Database.open(tmp_path / "db")
    assert len((await again.load()).notes) == 100
    await again.close()


@asyncio_test()
async def test_close_of_a_stalled_database_says_what_was_lost(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "db")
    stalled = asyncio.Event()
    database.on_state = lambda state, _: stalled.set() if state is DatabaseState.STALLED else None
    blocker = sqlite3.connect(tmp_path / "db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    failed: list[Exception] = []
    batch = database.batch()
    batch.note("lost", b"")
    database.submit(batch, None, failed.append)
    await stalled.wait()
    await database.close()
    blocker.close()
    assert [type(error) for error in failed] == [DatabaseClosedError]
    again = await Database.open(tmp_path / "db")
    assert (await again.load()).notes == {}
    await again.close()
