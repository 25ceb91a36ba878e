"""What a named app was given, on a real database."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mapi_proc.database import Database
from mapi_proc.database.store import DatabaseLimits
from mapi_proc.receive.delivered import delivered_since
from mapi_proc.write_batch import Turn
from tests.support.aio import asyncio_test
from tests.unit.mapi_proc.database.support import app_record

HOUR = 3600 * 1_000_000_000
NOW = 1000 * HOUR
LIMITS = DatabaseLimits()


async def opened(path: Path, limits: DatabaseLimits = LIMITS) -> tuple[Database, Turn]:
    database = await Database.open(path / "mapi.sqlite3", limits=limits)
    batch = database.batch()
    batch.create_app(app_record())
    await database.commit(batch)
    failed: list[Exception] = []
    return database, Turn(database, lambda: 1, lambda _shard: None, failed.append, lambda: NOW)


@asyncio_test()
async def test_what_is_on_its_way_to_the_disk_counts(tmp_path: Path) -> None:
    database, turn = await opened(tmp_path)
    _ = turn.batch
    turn.delivered(1, b"a" * 32)
    turn.delivered(2, b"b" * 32)
    assert await delivered_since(database, turn, 1, NOW) == {b"a" * 32}
    assert await delivered_since(database, turn, 1, NOW + 2 * HOUR) == set(), "it asks for what came later"
    await database.close()


@asyncio_test()
async def test_it_counts_also_while_the_disk_is_behind(tmp_path: Path) -> None:
    """Else a message that waits for the disk would be brought a second time."""
    database, turn = await opened(tmp_path, DatabaseLimits(pending_batches=1))
    first = database.batch()
    first.note("first", b"")
    database.submit(first)
    assert database.congested
    _ = turn.batch
    turn.delivered(1, b"a" * 32)
    assert await delivered_since(database, turn, 1, NOW) == {b"a" * 32}
    await database.close()


@asyncio_test()
async def test_a_disk_that_cannot_answer_stops_nothing(tmp_path: Path) -> None:
    database, turn = await opened(tmp_path)
    await database.close()
    assert await delivered_since(database, turn, 1, 0) is None


@asyncio_test()
async def test_an_app_is_watched_from_now_on(tmp_path: Path) -> None:
    database, turn = await opened(tmp_path)
    with turn.watch(1) as fresh:
        turn.delivered(1, b"a" * 32)
        turn.delivered(2, b"b" * 32)
        assert fresh == {b"a" * 32}
    turn.delivered(1, b"c" * 32)
    assert fresh == {b"a" * 32}
    await asyncio.sleep(0)
    await database.close()
