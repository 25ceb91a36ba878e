"""Damage is moved aside in the start that finds it, however it shows."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ipc_schema.mapi.events import EventsDropped
from mapi_proc.database import AppRecord, Database, KernelPosition
from mapi_proc.streams import DurableStream
from tests.support.aio import asyncio_test
from tests.unit.mapi_proc.database.support import app_record, send_entry
from tests.unit.mapi_proc.streams.support import PROPAGATED, Connection, fields

PAGE = 4096


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "db"

    @asyncio_test()
    async def fill() -> None:
        database = await Database.open(path)
        batch = database.batch()
        for app_id in range(1, 4):
            batch.create_app(AppRecord(app_id, f"app{app_id}", 0, bytes([app_id]) * 16, 1, 1))
            batch.subscribe(app_id, [f"/a/1/{number}/proto" for number in range(50)])
        for number in range(1, 120):
            for app_id in range(1, 4):
                batch.journal(app_id, number, number, b"h" * 40, b"x" * 300)
            batch.put_send(send_entry(number, number.to_bytes(16)))
            batch.remember(0, number, bytes(32))
            batch.note(f"n{number}", b"value")
        batch.position(KernelPosition("m/1/0", b"i" * 16, b"e" * 8, 1))
        await database.commit(batch)
        await database.close()

    fill()
    return path


def damaged(content: bytes, seed: int) -> bytes:
    """One of five kinds of damage."""
    chance, data = random.Random(seed), bytearray(content)
    pages = len(data) // PAGE
    here = chance.randrange(pages) * PAGE
    match seed % 5:
        case 0:
            for _ in range(chance.choice([1, 5, 50])):
                data[chance.randrange(100, len(data))] ^= 1 << chance.randrange(8)
        case 1:
            data[here : here + 64] = bytes(64)
        case 2:
            del data[chance.randrange(len(data)) :]
        case 3:
            data[here + 100 : here + 612] = chance.randbytes(512)
        case _:
            there = chance.randrange(pages) * PAGE
            data[here : here + PAGE] = data[there : there + PAGE]
    return bytes(data)


@pytest.mark.parametrize("kind", range(5))
def test_a_damaged_file_is_used_or_moved_aside_and_never_ends_a_start(
    whole: Path, tmp_path: Path, kind: int
) -> None:
    @asyncio_test()
    async def run() -> None:
        moved = 0
        for seed in range(kind, 50, 5):
            directory = tmp_path / str(seed)
            shutil.copytree(whole.parent, directory)
            (directory / "db").write_bytes(damaged(whole.read_bytes(), seed))
            database = await Database.open(directory / "db")
            moved += bool(list(directory.glob("db.corrupt-*")))
            await database.load()
            await database.close()
        assert moved, "nothing was damaged: then this tested nothing"

    run()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE app SET name = x'00' WHERE id = 1",
        "UPDATE app SET acked = 'text' WHERE id = 1",
        "UPDATE outbox SET state = 7 WHERE id = 1",
        "UPDATE journal SET payload_id = x'01' WHERE key = (SELECT min(key) FROM journal)",
        "UPDATE journal SET time = x'ff' WHERE key = (SELECT min(key) FROM journal)",
        "UPDATE meta SET value = x'7878' WHERE key = 'generation'",
        "UPDATE subscription SET topic = CAST(x'ff' AS TEXT) WHERE app = 1 AND topic LIKE '%/7/%'",
        "DROP TABLE seen",
    ],
)
def test_values_that_no_version_writes_are_damage(whole: Path, tmp_path: Path, statement: str) -> None:
    @asyncio_test()
    async def run() -> None:
        path = tmp_path / "node" / "db"
        shutil.copytree(whole.parent, path.parent)
        connection = sqlite3.connect(path)
        connection.execute(statement)
        connection.commit()
        connection.close()
        database = await Database.open(path, now=lambda: 5_000_000_000)
        assert (await database.load()).apps == []
        await database.close()
        assert path.with_name("db.corrupt-5").exists()

    run()


EVENTS = 9


async def three_rows(path: Path) -> None:
    """Nine events of one app in three rows, the first of them acknowledged."""
    database = await Database.open(path)
    batch = database.batch()
    batch.create_app(app_record())
    await database.commit(batch)
    stream = DurableStream(app_record(), [], database.read_page, asyncio.get_running_loop().call_soon)
    for _ in range(3):
        batch = database.batch()
        for _ in range(3):
            stream.append(PROPAGATED, 1, fields(stream.last_seq + 1), b"payload", batch)
        await database.commit(batch)
    batch = database.batch()
    stream.ack(1, batch)
    await database.commit(batch)
    await database.close()


async def what_comes(path: Path) -> list[str]:
    """What the app gets when it connects: the seqs, and the spans that are lost."""
    database = await Database.open(path)
    (app,) = (await database.load()).apps
    extents = (await database.load()).extents[1]
    stream = DurableStream(app, extents, database.read_page, asyncio.get_running_loop().call_soon)
    connection, done = Connection(), asyncio.Event()

    def send(header: bytes, payload: bytes) -> bool:
        connection(header, payload)
        if connection.seqs[-1] == EVENTS:
            done.set()
        return True

    stream.attach(send, 1 << 40)
    async with asyncio.timeout(30):
        await done.wait()
    assert {event.stream_id for event in connection.events} == {app.stream_id}
    await database.close()
    return [
        f"{event.first}-{event.last} {event.reason}" if isinstance(event, EventsDropped) else str(event.seq)
        for event in connection.events
    ]


UNREADABLE = [
    "sizes = x'01'",
    "sizes = zeroblob(24)",
    "sizes = 5",
    "sizes = x''",
    "payload = NULL",
    "header = 5",
]


def renew(path: Path) -> Path:
    """Copy the directory: its streams get new ids."""
    shutil.copytree(path.parent, path.parent.with_name("copy"))
    return path.parent.with_name("copy") / path.name


def stay(path: Path) -> Path:
    return path


@pytest.mark.parametrize("place", [stay, renew])
@pytest.mark.parametrize("row", [3, 6, 9])
@pytest.mark.parametrize("damage", UNREADABLE)
@asyncio_test()
async def test_a_row_that_cannot_be_read_costs_its_events_and_no_others(
    tmp_path: Path, damage: str, row: int, place: Callable[[Path], Path]
) -> None:
    path = tmp_path / "node" / "db"
    path.parent.mkdir()
    await three_rows(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(f"UPDATE journal SET {damage} WHERE key & 15 = {row}").rowcount == 1
    path = place(path)
    expected = [str(seq) for seq in range(2, EVENTS + 1) if not row - 3 < seq <= row]
    first = max(2, row - 2)
    expected.insert(first - 2, f"{first}-{row} lost")
    assert await what_comes(path) == expected
    assert path.with_name("db.damaged").exists(), "the next start checks the file"


@asyncio_test()
async def test_bytes_that_became_text_are_what_they_were(tmp_path: Path) -> None:
    await three_rows(tmp_path / "db")
    with closing(sqlite3.connect(tmp_path / "db")) as connection, connection:
        for column in ("header", "payload", "sizes"):
            connection.execute(f"UPDATE journal SET {column} = CAST({column} AS TEXT)")
    assert await what_comes(tmp_path / "db") == [str(seq) for seq in range(2, EVENTS + 1)]
