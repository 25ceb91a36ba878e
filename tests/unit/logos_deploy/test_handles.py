"""Processes and directories that one holds on to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from logos_deploy.node.handles import (
    DirectoryInUseError,
    DirectoryLock,
    ProcessHandle,
    holder_of,
    private_directory,
)


def test_a_process_is_alive_until_it_ends_also_as_a_zombie() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    with ProcessHandle(child.pid) as handle:
        assert handle.alive()
        assert handle.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not handle.alive()  # not reaped yet
        child.wait()
        assert not handle.alive()
        assert not handle.kill()
    child.stdin.close()


def test_no_such_process() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(ProcessLookupError):
        ProcessHandle(child.pid)


def test_a_directory_has_one_owner(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert holder_of(path) is None
    lock = DirectoryLock(path)
    assert holder_of(path) == os.getpid()
    with pytest.raises(DirectoryInUseError, match=f"in use by process {os.getpid()}"):
        DirectoryLock(path)
    lock.release()
    assert holder_of(path) is None
    DirectoryLock(path).release()


def test_a_private_directory_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    private_directory(path)
    assert path.stat().st_mode & 0o777 == 0o700
    path.chmod(0o755)
    private_directory(path)
    assert path.stat().st_mode & 0o777 == 0o700
