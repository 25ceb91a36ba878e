"""kill -9: what was reported as committed is there afterwards, and no half of anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mapi_proc.database import Database
from mapi_proc.database.reader import read_page
from tests.support.aio import asyncio_test

# Writes inputs as fast as it can: each one batch of three journal events, a kernel position, hashes, a send.
# Prints the number of each input when its commit was reported.
CHILD = """
import asyncio, pathlib, sys
from mapi_proc.database import AppRecord, Database, KernelPosition, OutboxEntry
from mapi_proc.streams import DurableStream
from ipc_schema.mapi.event_codec import pack_fields

async def main():
    database = await Database.open(pathlib.Path(sys.argv[1]))
    snapshot = await database.load()
    loop = asyncio.get_running_loop()
    app = snapshot.apps[0] if snapshot.apps else AppRecord(1, "app", 0, b"s" * 16, 1, 1)
    stream = DurableStream(app, snapshot.extents.get(1, []), database.read_page, loop.call_soon)
    number = stream.last_seq // 3
    if not snapshot.apps:
        batch = database.batch()
        batch.create_app(app)
        await database.commit(batch)
    while True:
        if database.congested:
            await asyncio.sleep(0.001)
            continue
        number += 1
        batch = database.batch(durable=number % 10 == 0)
        for part in range(3):
            stream.append(2, number, pack_fields(number.to_bytes(16, "big"), bytes(32)), b"x" * 1024, batch)
        batch.position(KernelPosition("m/1/0", b"i" * 16, b"e" * 8, number))
        batch.remember(0, number, number.to_bytes(32, "big"))
        request_id = number.to_bytes(16, "big")
        batch.put_send(OutboxEntry(number, b"s" * 16, request_id, b"f", "/t", b"p", b"", False, number))
        database.submit(batch, lambda number=number: print(number, flush=True))
        await asyncio.sleep(0)

asyncio.run(main())
"""


def killed_run(path: Path, lines: int) -> int:
    """Run the child until it has reported `lines` commits, kill it, and return the last number reported."""
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        last = 0
        for _ in range(lines):
            line = process.stdout.readline()
            assert line, "the child ended by itself"
            last = int(line)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read()
        process.wait()
        process.stdout.close()
    complete = [int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    return max([last, *complete])


@pytest.mark.parametrize("lines", [1, 50, 3000])
def test_what_was_reported_as_stored_is_there(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "mapi.sqlite3"
    committed = killed_run(path, lines)

    async def check(least: int) -> int:
        database = await Database.open(path)
        snapshot = await database.load()
        stored = snapshot.positions["m/1/0"].seq
        entries = await database.read(read_page, 1, 0, 3 * stored + 1, 1 << 30, 1 << 30)
        await database.close()
        assert stored >= least
        # All parts of an input, or none.
        assert [entry.seq for entry in entries] == list(range(1, 3 * stored + 1))
        assert snapshot.extents[1][-1].last == 3 * stored
        assert [entry.entry_id for entry in snapshot.outbox] == list(range(1, stored + 1))
        assert [int.from_bytes(row.hashes, "big") for row in snapshot.hashes] == list(range(1, stored + 1))
        assert snapshot.apps[0].stream_id == b"s" * 16  # the host lives: the stream goes on
        return stored

    @asyncio_test()
    async def first() -> None:
        nonlocal committed
        committed = await check(committed)

    @asyncio_test()
    async def second() -> None:
        await check(again)

    first()
    again = killed_run(path, lines)
    assert again > committed
    second()
