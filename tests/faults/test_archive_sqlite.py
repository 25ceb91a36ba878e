"""What can happen to the embedded archive's file: no room, no file, another file, rubbish, kill -9."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
import trio

from ipc_schema.message import decode_message, message_hash
from kernel_proc.archive.api import ArchiveState, ArchiveUnavailable, HistoryQuery
from tests.support.aio import trio_test
from tests.support.archive import (
    NOW,
    SHARD,
    StateLog,
    make_message,
    offer,
    running,
    settings_for,
    stored_numbers,
)

# --- no room ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB; where that is not allowed, the test is skipped (see the one by RLIMIT)."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=20)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            pass


def test_full_disk_and_room_again(small_disk: Path) -> None:
    settings = settings_for(small_disk / "store.sqlite3", queue_messages=300)
    payload = Random(1).randbytes(8000)

    @trio_test()
    async def run() -> None:
        log = StateLog()
        async with running(settings, log=log) as archive:
            for number in range(20):
                assert offer(archive, SHARD, make_message(NOW + number, payload=payload))
            await archive.flush()
            fill(small_disk / "ballast")
            accepted = 20
            while archive.state is ArchiveState.READY:
                accepted += offer(archive, SHARD, make_message(NOW + accepted, payload=payload))
                await trio.sleep(0.001)
            assert "full" in archive.reason or "I/O" in archive.reason
            # Reading goes on, what comes in waits within the bound, what is too much is counted.
            assert len(await stored_numbers(archive)) >= 20
            while offer(archive, SHARD, make_message(NOW + accepted, payload=payload)):
                accepted += 1
            counters = archive.counters
            assert counters["queue_full"] == 1
            assert counters["write_failures"] >= 1
            assert accepted - counters["stored"] == 300
            (small_disk / "ballast").unlink()
            assert await log.reach(ArchiveState.READY) == ""
            await archive.flush()
            assert await stored_numbers(archive) == list(range(accepted))

    run()


def test_a_limit_on_file_sizes(tmp_path: Path) -> None:
    """The same without rights: RLIMIT_FSIZE, in a process of its own."""
    program = """
import pathlib, resource, signal, sys
import trio
from kernel_proc.archive.api import ArchiveState
from tests.support.archive import NOW, SHARD, StateLog, make_message, offer, running
from tests.support.archive import settings_for, stored_numbers

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = StateLog()
    async with running(settings_for(pathlib.Path(sys.argv[1])), log=log) as archive:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        for number in range(100):
            assert offer(archive, SHARD, make_message(NOW + number, payload=b"x" * 10_000))
        print(await log.reach(ArchiveState.STALLED))
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await archive.flush()
        assert archive.state is ArchiveState.READY
        assert await stored_numbers(archive) == list(range(100))

trio.run(main)
"""
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert run.returncode == 0, run.stderr
    assert "full" in run.stdout or "I/O" in run.stdout


# --- no file, another file ---


def test_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "later" / "store.sqlite3")

    @trio_test()
    async def run() -> None:
        log = StateLog()
        async with running(settings, log=log, wait=False) as archive:
            with pytest.raises(ArchiveUnavailable, match="opening"):
                await archive.query(HistoryQuery())
            assert offer(archive, SHARD, make_message(NOW))
            assert "cannot open" in await log.reach(ArchiveState.STALLED)
            with pytest.raises(ArchiveUnavailable):
                await archive.query(HistoryQuery())
            (tmp_path / "later").mkdir()
            await log.reach(ArchiveState.READY)
            await archive.flush()
            assert await stored_numbers(archive) == [0]

    run()


def test_the_file_is_removed_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"

    @trio_test()
    async def run() -> None:
        log = StateLog()
        async with running(settings_for(path), log=log) as archive:
            offer(archive, SHARD, make_message(NOW))
            await archive.flush()
            await archive.query(HistoryQuery())
            for file in tmp_path.iterdir():
                file.unlink()
            offer(archive, SHARD, make_message(NOW + 1))
            await archive.flush()
            assert [state for state, _ in log.seen] == ["ready", "stalled", "ready"]
            assert "removed" in log.seen[1][1]
            assert await stored_numbers(archive) == [1]
        assert path.exists()

    run()


@pytest.mark.parametrize("kind", ["rubbish", "another program", "later version"])
def test_a_file_that_cannot_be_used_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "store.sqlite3"
    if kind == "rubbish":
        path.write_bytes(b"this is no database " * 1000)
    elif kind == "another program":
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE Message (pubsubTopic BLOB)")
            connection.execute("PRAGMA user_version = 10")
        connection.close()
    else:

        @trio_test()
        async def make() -> None:
            async with running(settings_for(path)):
                pass

        make()
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    before = path.read_bytes()

    @trio_test()
    async def run() -> None:
        log = StateLog()
        async with running(settings_for(path), log=log, wait=False) as archive:
            reason = await log.reach(ArchiveState.STALLED)
            assert str(path) in reason
            assert {"rubbish": "not a database", "another program": "another", "later version": "99"}[
                kind
            ] in reason
            assert offer(archive, SHARD, make_message(NOW))
            with pytest.raises(ArchiveUnavailable):
                await archive.query(HistoryQuery())
            # The operator moves the file away; nothing has to be started again.
            path.rename(tmp_path / "aside")
            await log.reach(ArchiveState.READY)
            await archive.flush()
            assert await stored_numbers(archive) == [0]

    run()
    assert (tmp_path / "aside").read_bytes() == before


def test_damage_inside_the_file_shows(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"

    @trio_test()
    async def make() -> None:
        async with running(settings_for(path)) as archive:
            for number in range(3000):
                offer(archive, SHARD, make_message(NOW + number, payload=b"x" * 200))

    @trio_test()
    async def run() -> None:
        log = StateLog()
        async with running(settings_for(path), log=log, wait=False) as archive:
            number = 0
            while archive.state is not ArchiveState.STALLED:
                offer(archive, SHARD, make_message(NOW + number, payload=number.to_bytes(8, "big")))
                number += 1
                await trio.sleep(0.001)
            assert "malformed" in archive.reason
            assert archive.counters["write_failures"] > 0

    make()
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for at in range(8192 * 2, size, 8192):
            file.seek(at)
            file.write(b"\xff" * 4096)
    run()


# --- kill -9 ---

WRITER = """
import pathlib, sys
import trio
from tests.support.archive import settings_for
from tests.support.archive import NOW, SHARD, make_message, offer, running

async def main():
    number = int(sys.argv[2])
    async with running(settings_for(pathlib.Path(sys.argv[1]))) as archive:
        while True:
            for _ in range(50):
                message = make_message(NOW + number, payload=number.to_bytes(4, "big") * 200)
                while not offer(archive, SHARD, message):
                    await trio.sleep(0.001)
                number += 1
            await archive.flush()
            print(number, flush=True)

trio.run(main)
"""


def killed_run(path: Path, first: int, lines: int) -> int:
    """Run the writer from message `first` until it has reported `lines` flushes; return the last count."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(first)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    committed = first
    try:
        for _ in range(lines):
            line = process.stdout.readline()
            assert line, "the writer ended by itself"
            committed = int(line)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read()
        process.wait()
        process.stdout.close()
    return max([committed, *(int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n"))])


@pytest.mark.parametrize("lines", [1, 7, 60])
def test_kill_while_writing(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "store.sqlite3"

    async def check(committed: int) -> int:
        connection = sqlite3.connect(path)
        try:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            rows = connection.execute(
                "SELECT timestamp, hash, data FROM message ORDER BY timestamp"
            ).fetchall()
        finally:
            connection.close()
        # Groups are committed whole and in order: a gapless run, at least as long as was reported.
        assert [row[0] - NOW for row in rows] == list(range(len(rows)))
        assert len(rows) >= committed
        for timestamp, digest, data in rows:
            message = decode_message(data)
            assert (message.timestamp, message_hash(SHARD, message)) == (timestamp, digest)
        async with running(settings_for(path)) as archive:
            assert await stored_numbers(archive) == list(range(len(rows)))
        return len(rows)

    held = 0
    for _ in range(3):
        committed = killed_run(path, held, lines)

        @trio_test()
        async def run(least: int = committed) -> None:
            nonlocal held
            held = await check(least)

        run()
    assert held >= 150 * lines
