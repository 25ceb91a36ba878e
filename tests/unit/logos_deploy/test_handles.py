"""Handles of processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from logos_deploy.node.handles import ProcessHandle


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
