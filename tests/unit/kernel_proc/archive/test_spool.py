from __future__ import annotations

import contextlib
import sqlite3
import stat
from pathlib import Path

import pytest

from kernel_proc.archive.rows import ArchivedRow, topic_key
from kernel_proc.archive.spool import MessageSpool, SpoolFailed


def rows(first: int, count: int, size: int = 100) -> list[ArchivedRow]:
    return [
        ArchivedRow(n, n.to_bytes(32), topic_key("/p", f"/c/{n}"), "/p", f"/c/{n}", bytes(size))
        for n in range(first, first + count)
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.sqlite3"


def make(path: Path, size: int = 1 << 20) -> MessageSpool:
    spool = MessageSpool(path, size)
    spool.open()
    return spool


def test_first_in_first_out_also_after_a_restart(path: Path) -> None:
    spool = make(path)
    assert not path.exists()
    spool.add(rows(5, 5))
    spool.add(rows(0, 5))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    mark, found = spool.first(3, 1 << 20)
    assert found == rows(5, 3)
    spool.add(rows(20, 1))
    spool.remove(mark, found)
    size = spool.bytes
    # No close: the process was killed.
    again = make(path)
    assert (again.messages, again.bytes) == (8, size)
    mark, found = again.first(100, 1 << 20)
    assert found == [*rows(8, 2), *rows(0, 5), *rows(20, 1)]
    again.remove(mark, found)
    assert (again.messages, again.bytes) == (0, 0)
    assert list(path.parent.iterdir()) == []
    spool.close()


def test_limits(path: Path) -> None:
    spool = make(path, 5000)
    while spool.has_room:
        spool.add(rows(spool.messages, 2))
    assert 5000 <= spool.bytes < 6300
    assert len(spool.first(100, 1)[1]) == 1
    spool.close()


def overwrite(path: Path, offset: int, length: int = 8192) -> None:
    """Damage a page."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * length)


@pytest.mark.parametrize("damage", ["no database", "other tables", "other types", "no text", "page"])
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(path: Path, damage: str) -> None:
    if damage == "no database":
        path.write_bytes(b"not a database" * 1000)
    elif damage == "other tables":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE spool (cost INTEGER, name TEXT)")
            connection.execute("INSERT INTO spool VALUES (1, 'x')")
            connection.commit()
    else:
        spool = make(path)
        spool.add(rows(0, 200, 1000))
        spool.close()
        if damage == "page":
            for page in range(2, path.stat().st_size // 8192):
                overwrite(path, page * 8192)
        else:
            with contextlib.closing(sqlite3.connect(path)) as connection:
                value = "CAST(x'ff' AS TEXT)" if damage == "no text" else "7"
                connection.execute(f"UPDATE spool SET hash = x'00', content_topic = {value}, data = {value}")
                connection.commit()
    before = path.read_bytes()
    spool = MessageSpool(path, 1 << 20)

    def read() -> None:
        spool.open()
        spool.first(1000, 1 << 20)

    with pytest.raises(SpoolFailed, match="set aside as") as failed:
        read()
    (name,) = spool.damaged
    assert name in str(failed.value)
    assert path.with_name(name).read_bytes() == before
    assert (spool.messages, spool.bytes) == (0, 0)
    spool.add(rows(5, 1))
    assert spool.first(10, 1 << 20)[1] == rows(5, 1)
    spool.close()
    again = make(path)
    assert (again.messages, again.damaged) == (1, (name,))
    again.close()


def test_what_is_before_the_damage_is_returned(path: Path) -> None:
    spool = make(path)
    spool.add(rows(0, 100))
    spool.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE spool SET data = 7 WHERE id = 61")
        connection.commit()
    spool = make(path)
    mark, found = spool.first(1000, 1 << 20)
    assert found == rows(0, 60)
    spool.remove(mark, found)
    with pytest.raises(SpoolFailed, match="with up to 40 messages"):
        spool.first(1000, 1 << 20)
    spool.close()


def test_a_file_that_cannot_be_reached_now_is_not_damaged(path: Path) -> None:
    spool = make(path)
    spool.add(rows(0, 3))
    spool.close()
    hidden = path.with_name("hidden")
    path.rename(hidden)
    path.mkdir()
    for _ in range(2):
        with pytest.raises(SpoolFailed):
            spool.add(rows(3, 1))
    assert spool.damaged == ()
    path.rmdir()
    hidden.rename(path)
    assert spool.first(10, 1 << 20)[1] == rows(0, 3)
    spool.close()
