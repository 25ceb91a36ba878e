"""How much is kept of what apps were given."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mapi_proc.database import Database
from mapi_proc.receive.delivered_bounds import DeliveredCount
from tests.support.aio import asyncio_test
from tests.unit.mapi_proc.database.support import app_record

SECOND = 1_000_000_000


@given(
    steps=st.lists(st.tuples(st.integers(-30, 300), st.integers(1, 200)), max_size=300),
    most=st.integers(100, 3000),
)
def test_the_bound_holds_to_within_a_slice_whatever_the_clock_does(
    steps: list[tuple[int, int]], most: int
) -> None:
    count = DeliveredCount(most=most)
    disk: list[tuple[int, int]] = []
    now = 10_000 * SECOND
    for seconds, hashes in steps:
        now += seconds * SECOND
        disk.append((now, hashes))
        count.add(now, hashes)
        before = count.excess()
        if before is not None:
            disk = [(time, held) for time, held in disk if time >= before]
        assert sum(held for _, held in disk) <= most + most // 4 + 200


def test_slices_filled_while_the_clock_goes_back_go_from_the_disk_with_their_count() -> None:
    count = DeliveredCount(most=400)
    disk: list[tuple[int, int]] = []
    for seconds, hashes in ((0, 40), (50, 60), *((20 + number, 100) for number in range(5))):
        disk.append((seconds * SECOND, hashes))
        count.add(*disk[-1])
        before = count.excess()
        if before is not None:
            disk = [(time, held) for time, held in disk if time >= before]
        assert sum(held for _, held in disk) <= count.total <= 400


@asyncio_test()
async def test_what_an_earlier_run_has_kept_counts(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "mapi.sqlite3")
    batch = database.batch()
    batch.create_app(app_record())
    for number in range(5):
        batch.delivered(1, number * 3600 * SECOND, bytes(32) * 10)
    await database.commit(batch)
    loaded = (await database.load()).delivered
    assert loaded == [(number * 3600 * SECOND, 10) for number in range(5)]
    count = DeliveredCount(loaded, most=35)
    before = count.excess()
    assert before == 2 * 3600 * SECOND
    batch = database.batch()
    batch.evict_delivered(before)
    await database.commit(batch)
    assert sum(hashes for _, hashes in (await database.load()).delivered) == count.total == 30
    count.forget(4 * 3600 * SECOND)
    assert count.total == 10
    await database.close()
