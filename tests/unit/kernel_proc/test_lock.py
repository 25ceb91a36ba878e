"""Locks and private directories."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kernel_proc.lock import DirectoryLock, LockedError, private_directory


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with DirectoryLock.acquire(path, "the data directory x"):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(LockedError, match=f"the data directory x is in use by process {os.getpid()}"):
            DirectoryLock.acquire(path, "the data directory x")
    DirectoryLock.acquire(path, "again").release()


def test_a_dead_owner_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    script = (
        "import os,signal,sys; from pathlib import Path; from kernel_proc.lock import DirectoryLock;"
        "lock = DirectoryLock.acquire(Path(sys.argv[1]), 'x'); print('locked', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"locked\n"
        with pytest.raises(LockedError, match=f"process {owner.pid}"):
            DirectoryLock.acquire(path, "x")
        owner.kill()
        owner.wait()
    DirectoryLock.acquire(path, "x").release()


def test_a_lock_is_no_link_to_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"):
        DirectoryLock.acquire(tmp_path / "lock", "x")
    assert not (tmp_path / "target").exists()


def test_directories_are_made_private(tmp_path: Path) -> None:
    private_directory(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "open").mkdir(mode=0o755)
    private_directory(tmp_path / "open")
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o700
    private_directory(tmp_path / "open", os.getgid())
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o2750


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 65_533, 65_533)
    with pytest.raises(PermissionError):
        private_directory(tmp_path / "theirs")
