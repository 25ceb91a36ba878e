"""Keeping a child process: restarts and their end, stopping."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from logos_deploy import launcher_child
from logos_deploy.launcher_child import ChildEndedError, Keeper
from logos_deploy.launcher_logs import LogFile
from logos_deploy.node.handles import ProcessHandle
from logos_deploy.node.programs import Program
from logos_deploy.node.restarts import MAX_RESTARTS
from logos_process.parent_watch import ParentPipe
from tests.support.aio import asyncio_test
from tests.unit.logos_client.support import until


@pytest.fixture
def pipe() -> Iterator[ParentPipe]:
    pipe = ParentPipe()
    yield pipe
    pipe.cut()


def keeper(pipe: ParentPipe, directory: Path, script: str, **variables: str) -> Keeper:
    program = Program("child", ("/bin/sh", "-c", script), variables=variables)
    return Keeper(program, os.environ, pipe, LogFile(directory / "child.log"))


@asyncio_test()
async def test_it_gets_its_variables_a_pipe_to_us_and_a_log(pipe: ParentPipe, tmp_path: Path) -> None:
    os.environ["LOGOS_MAPI_MODE"] = "of the app's own"
    try:
        script = 'echo "$NAME$LOGOS_MAPI_MODE"; test -p /dev/fd/$LOGOS_PARENT_FD; echo $?; exec sleep 60'
        child = keeper(pipe, tmp_path, script, NAME="mine")
    finally:
        del os.environ["LOGOS_MAPI_MODE"]
    child.keep()
    await until(lambda: len(child.output.lines_since(0)) == 2, what="its output")
    assert child.output.lines_since(0) == ["mine", "0"]
    assert child.output.path.stat().st_mode & 0o777 == 0o600
    assert child.pid is not None
    assert os.getpgid(child.pid) == child.pid  # the terminal's Ctrl-C does not reach it
    await child.stop()
    assert child._process is not None
    assert child._process.returncode is not None
    await child.stop()


@asyncio_test()
async def test_one_that_dies_is_started_again(
    pipe: ParentPipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher_child, "RESTART_SECONDS", 0.01)
    child = keeper(pipe, tmp_path, "exec sleep 60")
    child.keep()
    child.settled = True
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: child.restarts == 1, what="it runs again")
    assert child.pid not in (None, first)
    await child.stop()


@asyncio_test()
async def test_one_that_cannot_live_is_given_up(
    pipe: ParentPipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher_child, "RESTART_SECONDS", 0.01)
    child = keeper(pipe, tmp_path, "echo no luck; exit 3")
    task = child.keep()
    child.settled = True
    with pytest.raises(ChildEndedError, match=r"child ended with exit code 3, 6 times within 30 s: no luck"):
        await task
    assert child.restarts == MAX_RESTARTS
    await child.stop()


@pytest.mark.parametrize(("code", "settled"), [(78, True), (0, True), (1, False)])
@asyncio_test()
async def test_ends_that_are_final(pipe: ParentPipe, tmp_path: Path, code: int, settled: bool) -> None:
    """A refused configuration, an end on request, and any end before it was ever ready."""
    child = keeper(pipe, tmp_path, f"echo why; exit {code}")
    task = child.keep()
    child.settled = settled
    with pytest.raises(ChildEndedError) as caught:
        await task
    assert (caught.value.code, caught.value.said, caught.value.refused) == (code, ["why"], code == 78)
    assert child.restarts == 0


@asyncio_test()
async def test_one_that_does_not_follow_is_killed(
    pipe: ParentPipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher_child, "STOP_SECONDS", 0.1)
    child = keeper(pipe, tmp_path, "trap '' TERM; echo up; while true; do sleep 60; done")
    task = child.keep()
    await until(lambda: child.output.lines_since(0) == ["up"], what="it runs")
    pid = child.pid
    assert pid is not None
    with ProcessHandle(pid) as handle:
        await child.stop()
        assert not handle.alive()
    await asyncio.gather(task, return_exceptions=True)


@asyncio_test()
async def test_a_loop_that_ends_takes_it_along(pipe: ParentPipe, tmp_path: Path) -> None:
    child = keeper(pipe, tmp_path, "exec sleep 60")
    task = child.keep()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: child._process is not None and child._process.poll() is not None, what="it ended")
