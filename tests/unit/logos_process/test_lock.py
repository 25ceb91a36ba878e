"""Locks and private directories."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from logos_process.lock import FileLock, LockedError, holder_of, holds


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FileLock.acquire(path, "the data directory x"):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(LockedError, match=f"the data directory x is in use by process {os.getpid()}"):
            FileLock.acquire(path, "the data directory x")
    FileLock.acquire(path, "again").release()


def test_a_dead_owner_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    script = (
        "import os,signal,sys; from pathlib import Path; from logos_process.lock import FileLock;"
        "lock = FileLock.acquire(Path(sys.argv[1]), 'x'); print('locked', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"locked\n"
        assert holder_of(path) == owner.pid
        assert holds(owner.pid, path)
        with pytest.raises(LockedError, match=f"process {owner.pid}"):
            FileLock.acquire(path, "x")
        owner.kill()
        owner.wait()
    FileLock.acquire(path, "x").release()


def test_a_number_in_the_file_proves_nothing(tmp_path: Path) -> None:
    """Written in another pid namespace, it means another process here."""
    path = tmp_path / "lock"
    with FileLock.acquire(path, "x"):
        assert holds(os.getpid(), path)
        path.write_text("1\n")
        assert holder_of(path) == 1
        assert not holds(1, path)
    path.open().close()
    with path.open():  # open, but not locked
        assert not holds(os.getpid(), path)
    assert not holds(0, path)


def test_what_cannot_be_locked_leaves_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    before = set(Path("/proc/self/fd").iterdir())
    monkeypatch.setattr(fcntl, "flock", refuse)
    for attempt in (lambda: FileLock.acquire(tmp_path / "lock", "x"), lambda: holder_of(tmp_path / "lock")):
        with pytest.raises(OSError, match="No locks"):
            attempt()
    assert {entry.name for entry in before} >= {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_a_lock_file_must_not_be_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"):
        FileLock.acquire(tmp_path / "lock", "x")
    assert not (tmp_path / "target").exists()
