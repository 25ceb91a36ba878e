"""What is reported when: after the sync that covers it, in order, also where a sync fails."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapi_proc.database import Database, DatabaseClosedError, DatabaseState
from mapi_proc.database.checkpoints import LOG_BYTES
from mapi_proc.database.log_sync import SyncOrder
from tests.support.aio import asyncio_test
from tests.unit.mapi_proc.database.support import send_entry


def test_what_need_not_be_synced_is_reported_at_once() -> None:
    order: SyncOrder[str] = SyncOrder()
    assert order.committed("a", durable=False) == ("a",)
    assert not order.wanted


def test_a_sync_covers_all_commits_before_it_began() -> None:
    order: SyncOrder[str] = SyncOrder()
    assert order.committed("a", durable=True) == ()
    assert order.committed("b", durable=False) == ()  # after what was committed before it
    assert order.committed("c", durable=True) == ()
    began = order.commits
    assert order.committed("d", durable=True) == ()
    assert order.committed("e", durable=False) == ()
    assert order.synced(began) == ["a", "b", "c"]
    assert order.wanted
    assert order.synced(order.commits) == ["d", "e"]
    assert not order.wanted


@given(st.lists(st.sampled_from(["durable", "other", "begin", "end"])))
def test_all_are_reported_in_order_and_none_that_is_durable_before_its_sync(steps: list[str]) -> None:
    order: SyncOrder[int] = SyncOrder()
    reported: list[int] = []
    durable: set[int] = set()
    under_way, synced, count = 0, 0, 0
    for step in [*steps, "begin", "end"]:
        match step:
            case "begin":
                under_way = order.commits
            case "end":
                synced = under_way
                reported += order.synced(under_way)
            case _:
                count += 1
                if step == "durable":
                    durable.add(count)
                reported += order.committed(count, step == "durable")
        assert all(number <= synced for number in reported if number in durable)
    assert reported == list(range(1, count + 1))


class _Disk:
    """Takes the place of `os.fdatasync`: holds syncs back, or lets them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = asyncio.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.failing = 0
        self.syncs = 0
        self._loop = asyncio.get_running_loop()
        self._real = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def _sync(self, file: int) -> None:
        self.syncs += 1
        self._loop.call_soon_threadsafe(self.begun.set)
        self.go_on.wait()
        if self.failing:
            self.failing -= 1
            raise OSError(errno.EIO, "the disk failed")
        self._real(file)


def _submit(database: Database, name: str, done: Callable[[str], None], *, durable: bool) -> None:
    batch = database.batch(durable=durable)
    batch.note(name, b"")
    database.submit(batch, lambda: done(name), lambda error: done(f"{name}: {type(error).__name__}"))


async def _stored(database: Database, name: str) -> None:
    """Wait until the batch is committed, which says nothing of a sync."""
    query = "SELECT 1 FROM meta WHERE key = ?"
    while not await database.read(lambda connection: connection.execute(query, (f"note:{name}",)).fetchall()):
        pass


@asyncio_test()
async def test_the_writer_goes_on_during_a_sync_and_reports_nothing_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await Database.open(tmp_path / "db")
    disk, reported = _Disk(monkeypatch), list[str]()
    disk.go_on.clear()
    _submit(database, "first", reported.append, durable=True)
    await disk.begun.wait()
    for name, durable in (("second", False), ("third", True), ("fourth", True)):
        _submit(database, name, reported.append, durable=durable)
        await _stored(database, name)
    assert reported == []
    assert database.pending_batches == 4
    disk.go_on.set()
    await database.commit(database.batch(durable=True))
    assert reported == ["first", "second", "third", "fourth"]
    assert disk.syncs <= 3  # one for all that was committed during the first
    await database.close()


@asyncio_test()
async def test_after_a_failed_sync_the_log_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await Database.open(tmp_path / "db")
    disk, reported, states = _Disk(monkeypatch), list[str](), list[DatabaseState]()
    written, write = list[bytes](), os.pwrite

    def pwrite(file: int, data: bytes, start: int) -> int:
        if file == database._opened.log:
            assert reported == []
            written.append(bytes(data))
        return write(file, data, start)

    monkeypatch.setattr(os, "pwrite", pwrite)
    database.on_state = lambda state, _: states.append(state)
    disk.failing = 2  # the sync, and that of the log that was written again
    _submit(database, "send", reported.append, durable=True)
    await database.commit(database.batch(durable=True))
    assert reported == ["send"]
    assert states == [DatabaseState.STALLED, DatabaseState.OPEN]
    assert len(written) == 2
    assert b"".join(written[-1:]) == (tmp_path / "db-wal").read_bytes()[: len(written[-1])]
    await database.close()
    again = await Database.open(tmp_path / "db")
    assert "send" in (await again.load()).notes
    await again.close()


@asyncio_test()
async def test_no_checkpoint_comes_between_a_failed_sync_and_its_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await Database.open(tmp_path / "db")
    disk, main, write = _Disk(monkeypatch), tmp_path / "db", os.pwrite
    sizes: list[int] = []
    sync = database._writer._sync

    def pwrite(file: int, data: bytes, start: int) -> int:
        if file == database._opened.log:
            sizes.append(main.stat().st_size)  # it is being repaired
        elif not disk.go_on.is_set() and os.fstat(database._opened.log).st_size > LOG_BYTES:
            # The second batch is committed, and a checkpoint is due: the sync of the first one fails now.
            disk.go_on.set()
            while sync.failure is None:
                pass
        return write(file, data, start)

    disk.go_on.clear()
    disk.failing = 1
    before, reported = main.stat().st_size, list[str]()
    _submit(database, "first", reported.append, durable=True)
    await disk.begun.wait()
    monkeypatch.setattr(os, "pwrite", pwrite)
    second = database.batch(durable=True)
    second.put_send(send_entry())
    second.note("second", bytes(2 * LOG_BYTES))
    await database.commit(second)
    assert reported == ["first"]
    assert set(sizes) == {before}
    await database.close()


@asyncio_test()
async def test_close_waits_for_the_sync_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = await Database.open(tmp_path / "db")
    disk, reported = _Disk(monkeypatch), list[str]()
    disk.go_on.clear()
    _submit(database, "first", reported.append, durable=True)
    await disk.begun.wait()
    _submit(database, "second", reported.append, durable=True)
    closing = asyncio.create_task(database.close())
    await _stored(database, "second")
    assert reported == []
    assert not closing.done()
    disk.go_on.set()
    await closing
    assert reported == ["first", "second"]


@asyncio_test()
async def test_close_says_what_could_not_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = await Database.open(tmp_path / "db")
    disk, reported, stalled = _Disk(monkeypatch), list[str](), asyncio.Event()
    disk.failing = 1 << 30
    database.on_state = lambda state, _: stalled.set() if state is DatabaseState.STALLED else None
    _submit(database, "send", reported.append, durable=True)
    await stalled.wait()
    assert reported == []
    await database.close()
    assert reported == [f"send: {DatabaseClosedError.__name__}"]
