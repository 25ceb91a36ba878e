from __future__ import annotations

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


def test_a_file_that_cannot_be_used_is_an_error_each_time(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)
    spool = MessageSpool(path, 1 << 20)
    for _ in range(2):
        with pytest.raises(SpoolFailed, match="not a database"):
            spool.open()
        with pytest.raises(SpoolFailed, match="not a database"):
            spool.add(rows(0, 1))
    assert spool.messages == 0
    path.unlink()
    spool.add(rows(0, 1))
    spool.close()
