"""A really full file system: nothing is acknowledged that is not on disk, and it goes on when there is room
again.

Needs the right to mount a small tmpfs; without it the same is tested with a limit on file sizes (in a child
process).
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipc_schema.mapi.event_codec import pack_fields
from mapi_proc.database import AppRecord, Database, DatabaseState
from mapi_proc.database.errors import DatabaseUnavailableError
from mapi_proc.database.reader import read_page
from mapi_proc.streams import DurableStream
from tests.support.aio import asyncio_test

APP = AppRecord(1, "app", 0, b"s" * 16, 1, 1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
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


def test_full_and_free_again(small_disk: Path) -> None:
    @asyncio_test()
    async def run() -> None:
        loop = asyncio.get_running_loop()
        database = await Database.open(small_disk / "mapi.sqlite3")
        batch = database.batch()
        batch.create_app(APP)
        await database.commit(batch)
        stream = DurableStream(APP, [], database.read_page, loop.call_soon)
        received: list[bytes] = []

        def send(header: bytes, payload: bytes) -> bool:
            received.append(payload)
            return True

        stream.attach(send, 1 << 40)
        stalled, going = asyncio.Event(), asyncio.Event()

        def on_state(state: DatabaseState, reason: str) -> None:
            if state is DatabaseState.STALLED:
                assert "full" in reason or "I/O" in reason
                stalled.set()
            elif state is DatabaseState.OPEN:
                going.set()

        database.on_state = on_state
        fill(small_disk / "ballast")
        fields = pack_fields(bytes(16), bytes(32))
        committed: list[int] = []
        for number in range(100):
            batch = database.batch(durable=True)
            stream.append(2, number, fields, number.to_bytes(2, "big") + b"x" * 8000, batch)
            database.submit(batch, lambda number=number: committed.append(number))  # type: ignore[misc]
        await stalled.wait()
        assert len(committed) == len(received) < 100
        assert database.pending_batches == 100 - len(committed)
        (small_disk / "ballast").unlink()
        await going.wait()
        while len(committed) < 100:
            await database.commit(database.batch())
        assert committed == list(range(100))
        assert [int.from_bytes(payload[:2], "big") for payload in received] == committed
        await database.close()
        database = await Database.open(small_disk / "mapi.sqlite3")
        entries = await database.read(read_page, 1, 0, 999, 1 << 30, 999)
        assert [entry.seq for entry in entries] == list(range(1, 101))
        await database.close()

    run()


def test_killed_while_the_disk_is_full(small_disk: Path) -> None:
    """What was reported before is there, what was not may be missing, and the file is whole."""
    program = """
import asyncio, pathlib, sys
from mapi_proc.database import Database, DatabaseState
async def main():
    database = await Database.open(pathlib.Path(sys.argv[1]))
    database.on_state = lambda state, _: print("stalled", flush=True)
    for number in range(2000):
        batch = database.batch()
        batch.note(f"n{number:04}", b"x" * 4000)
        database.submit(batch, lambda number=number: print(number, flush=True))
        await asyncio.sleep(0)
    await asyncio.sleep(3600)
asyncio.run(main())
"""
    path = small_disk / "mapi.sqlite3"
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    committed = []
    for line in process.stdout:
        if line == "stalled\n":
            break
        committed.append(int(line))
    process.kill()
    process.wait()
    process.stdout.close()
    assert committed

    @asyncio_test()
    async def check() -> None:
        database = await Database.open(path)
        notes = (await database.load()).notes
        assert [int(key[1:]) for key in sorted(notes)][: len(committed)] == committed
        await database.close()

    # The file system is as full as it was: the file may be opened (it takes little) or refused clearly.
    try:
        check()
    except DatabaseUnavailableError:
        subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True, timeout=20)
        check()


def test_opening_on_a_full_disk_is_a_clear_error(small_disk: Path) -> None:
    fill(small_disk / "ballast")

    @asyncio_test()
    async def run() -> None:
        with pytest.raises(DatabaseUnavailableError, match="cannot open"):
            await Database.open(small_disk / "mapi.sqlite3")
        (small_disk / "ballast").unlink()
        database = await Database.open(small_disk / "mapi.sqlite3")
        await database.close()

    run()


def test_a_limit_on_file_sizes() -> None:
    """The same without rights: RLIMIT_FSIZE in a child, raised again while it runs."""
    program = """
import asyncio, pathlib, resource, signal, sys, tempfile
from mapi_proc.database import Database, DatabaseState
async def main(place):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    database = await Database.open(pathlib.Path(place) / "db")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    stalled = asyncio.Event()
    database.on_state = lambda state, _: stalled.set() if state is DatabaseState.STALLED else None
    committed = []
    for number in range(100):
        batch = database.batch()
        batch.note(f"n{number}", b"x" * 10_000)
        database.submit(batch, lambda number=number: committed.append(number))
    await stalled.wait()
    assert len(committed) < 100
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    while len(committed) < 100:
        await database.commit(database.batch())
    assert committed == list(range(100)), committed
    assert len((await database.load()).notes) == 100
    await database.close()
with tempfile.TemporaryDirectory() as place:
    asyncio.run(asyncio.wait_for(main(place), 30))
print("done")
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.stdout == "done\n", run.stderr
