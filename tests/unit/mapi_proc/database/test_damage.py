"""Damage is moved aside in the start that finds it, however it shows."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from mapi_proc.database import AppRecord, Database, KernelPosition
from tests.support.aio import asyncio_test
from tests.unit.mapi_proc.database.support import send_entry

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
