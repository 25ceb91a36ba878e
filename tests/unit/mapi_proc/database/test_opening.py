"""Which file is opened, refused, moved aside; when streams get new ids."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mapi_proc.database import AppRecord, Database
from mapi_proc.database.errors import DatabaseLockedError, DatabaseTooNewError
from mapi_proc.database.opening import mark_corrupt
from mapi_proc.database.reader import read_page
from mapi_proc.database.schema import NotOurDatabaseError
from tests.support.aio import asyncio_test
from tests.unit.mapi_proc.database.support import STREAM, app_record, send_entry

BOOT = "boot-1"


async def filled(path: Path) -> None:
    database = await Database.open(path, boot_id=BOOT)
    batch = database.batch()
    batch.create_app(app_record())
    for seq in (1, 2, 4):  # two in a row, and one alone
        batch.journal(1, seq, 5, b"\x95\x01\xc4\x10" + STREAM + STREAM, b"payload%d" % seq)
    batch.put_send(send_entry())
    await database.commit(batch)
    await database.close()


async def only_app(path: Path, boot_id: str = BOOT) -> tuple[bytes, AppRecord | None]:
    database = await Database.open(path, boot_id=boot_id)
    snapshot = await database.load()
    await database.close()
    return snapshot.database_id, snapshot.apps[0] if snapshot.apps else None


@asyncio_test()
async def test_files_are_private(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "db")
    await database.commit(database.batch())
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert {"db", "db-wal", "db-shm", "db.generation", "db.written"} == modes.keys()
    assert set(modes.values()) == {0o600}
    await database.close()
    assert {path.name for path in tmp_path.iterdir()} == {"db", "db.generation", "db.written"}


@asyncio_test()
async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "db")
    program = (
        "import asyncio, pathlib, sys\n"
        "from mapi_proc.database import Database\n"
        "from mapi_proc.database.errors import DatabaseLockedError\n"
        "try:\n    asyncio.run(Database.open(pathlib.Path(sys.argv[1])))\n"
        "except DatabaseLockedError as error:\n    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "db")],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert run.stdout.strip() == f"{tmp_path / 'db'} is in use by another process"
    await database.close()


@asyncio_test()
async def test_a_transaction_of_another_process_is_a_lock_too(tmp_path: Path) -> None:
    await filled(tmp_path / "db")
    other = sqlite3.connect(tmp_path / "db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseLockedError):
        await Database.open(tmp_path / "db")
    other.close()
    await only_app(tmp_path / "db")


@asyncio_test()
async def test_another_programs_database_is_refused_untouched(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "db")) as other, other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(NotOurDatabaseError):
        await Database.open(tmp_path / "db")
    with closing(sqlite3.connect(tmp_path / "db")) as other, other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    other.close()


@asyncio_test()
async def test_a_later_schema_is_refused(tmp_path: Path) -> None:
    await filled(tmp_path / "db")
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DatabaseTooNewError, match="99"):
        await Database.open(tmp_path / "db")


@asyncio_test()
async def test_garbage_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "db").write_bytes(b"this is no database" * 1000)
    database = await Database.open(tmp_path / "db", now=lambda: 5_000_000_000)
    assert (await database.load()).apps == []
    await database.close()
    assert (tmp_path / "db.corrupt-5").read_bytes().startswith(b"this is no")
    assert "moved to db.corrupt-5" in caplog.text


@asyncio_test()
async def test_damage_that_an_earlier_run_noted_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "db"
    await filled(path)
    before, _ = await only_app(path)
    mark_corrupt(path)
    assert (await only_app(path))[0] == before  # a false alarm
    assert not (tmp_path / "db.damaged").exists()

    content = bytearray(path.read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(content)
    mark_corrupt(path)
    after, app = await only_app(path)
    assert after != before
    assert app is None
    assert len(list(tmp_path.glob("db.corrupt-*"))) == 1


@asyncio_test()
async def test_stream_ids_outlive_restarts_also_unclean_ones(tmp_path: Path) -> None:
    await filled(tmp_path / "db")
    unclean(tmp_path / "db")
    _, app = await only_app(tmp_path / "db")
    assert app is not None
    assert app.stream_id == STREAM


@asyncio_test()
async def test_a_clean_end_outlives_a_reboot(tmp_path: Path) -> None:
    await filled(tmp_path / "db")
    _, app = await only_app(tmp_path / "db", "boot-2")
    assert app is not None
    assert app.stream_id == STREAM


@pytest.mark.parametrize("boot_id", ["boot-2", ""])
def test_a_host_that_died_renews_the_stream_ids(tmp_path: Path, boot_id: str) -> None:
    @asyncio_test()
    async def run() -> None:
        path = tmp_path / "db"
        await filled(path)
        unclean(path)
        database = await Database.open(path, boot_id=boot_id)
        snapshot = await database.load()
        renewed = snapshot.apps[0].stream_id
        assert renewed != STREAM
        assert len(renewed) == 16
        assert snapshot.outbox[0].scope == renewed
        header = b"\x95\x01\xc4\x10" + renewed + STREAM  # only the id, not what looks like it
        entries = await database.read(read_page, 1, 0, 9, 999, 9)
        assert entries == [(seq, header, b"payload%d" % seq) for seq in (1, 2, 4)]
        await database.close()

    run()


@asyncio_test()
async def test_an_older_copy_renews_the_stream_ids(tmp_path: Path) -> None:
    path = tmp_path / "db"
    await filled(path)
    shutil.copy(path, tmp_path / "copy")
    await only_app(path)
    shutil.copy(tmp_path / "copy", path)
    _, app = await only_app(path)
    assert app is not None
    assert app.stream_id != STREAM
    renewed = app.stream_id
    _, app = await only_app(path)
    assert app is not None
    assert app.stream_id == renewed


def unclean(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE meta SET value = x'30' WHERE key = 'clean'")
    connection.close()
