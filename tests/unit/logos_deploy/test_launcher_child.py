"""Keeping a child process: restarts and their end, stopping, the lifeline and forks."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from logos_deploy import launcher_child
from logos_deploy.launcher_child import ChildEndedError, Keeper, Lifeline
from logos_deploy.launcher_logs import LogFile
from logos_deploy.launcher_plan import Program
from logos_deploy.node.handles import ProcessHandle
from tests.support.aio import asyncio_test
from tests.unit.logos_client.support import until


@pytest.fixture
def lifeline() -> Iterator[Lifeline]:
    line = Lifeline()
    yield line
    line.cut()


def keeper(lifeline: Lifeline, directory: Path, script: str, **variables: str) -> Keeper:
    program = Program("child", ("/bin/sh", "-c", script), variables)
    return Keeper(program, os.environ, lifeline, LogFile(directory / "child.log"))


@asyncio_test()
async def test_it_gets_its_variables_the_lifeline_and_a_log(lifeline: Lifeline, tmp_path: Path) -> None:
    os.environ["LOGOS_MAPI_MODE"] = "of the app's own"
    try:
        script = 'echo "$NAME$LOGOS_MAPI_MODE"; test -p /dev/fd/$LOGOS_LIFELINE_FD; echo $?; exec sleep 60'
        child = keeper(lifeline, tmp_path, script, NAME="mine")
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
    lifeline: Lifeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher_child, "RESTART_SECONDS", 0.01)
    child = keeper(lifeline, tmp_path, "exec sleep 60")
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
    lifeline: Lifeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher_child, "RESTART_SECONDS", 0.01)
    child = keeper(lifeline, tmp_path, "echo no luck; exit 3")
    task = child.keep()
    child.settled = True
    with pytest.raises(ChildEndedError, match=r"child ended with exit code 3, 6 times within 30 s: no luck"):
        await task
    assert child.restarts == launcher_child.MAX_RESTARTS
    await child.stop()


@pytest.mark.parametrize(("code", "settled"), [(78, True), (0, True), (1, False)])
@asyncio_test()
async def test_ends_that_are_final(lifeline: Lifeline, tmp_path: Path, code: int, settled: bool) -> None:
    """A refused configuration, an end that somebody asked for, and any before it was ever ready."""
    child = keeper(lifeline, tmp_path, f"echo why; exit {code}")
    task = child.keep()
    child.settled = settled
    with pytest.raises(ChildEndedError) as caught:
        await task
    assert (caught.value.code, caught.value.said, caught.value.refused) == (code, ["why"], code == 78)
    assert child.restarts == 0


@asyncio_test()
async def test_one_that_does_not_follow_is_killed(
    lifeline: Lifeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher_child, "STOP_SECONDS", 0.1)
    child = keeper(lifeline, tmp_path, "trap '' TERM; echo up; while true; do sleep 60; done")
    task = child.keep()
    await until(lambda: child.output.lines_since(0) == ["up"], what="it runs")
    pid = child.pid
    assert pid is not None
    with ProcessHandle(pid) as handle:
        await child.stop()
        assert not handle.alive()
    await asyncio.gather(task, return_exceptions=True)


@asyncio_test()
async def test_a_loop_that_ends_takes_it_along(lifeline: Lifeline, tmp_path: Path) -> None:
    child = keeper(lifeline, tmp_path, "exec sleep 60")
    task = child.keep()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: child._process is not None and child._process.poll() is not None, what="it ended")


def at_its_end(lifeline: Lifeline) -> bool:
    readable, _, _ = select.select([lifeline.reading], [], [], 0)
    return bool(readable)


def test_a_child_that_the_app_forks_does_not_hold_the_lifeline() -> None:
    """It may live on after the app: the node must not."""
    lifeline = Lifeline()
    reading = os.dup(lifeline.reading)
    asked, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(answer, b"1" if not launcher_child._lifelines else b"0")
        signal.pause()
    try:
        assert os.read(asked, 1) == b"1"
        assert not at_its_end(lifeline)
        lifeline.cut()
        assert select.select([reading], [], [], 5)[0]
        assert os.read(reading, 1) == b""
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for descriptor in (reading, asked, answer):
            os.close(descriptor)


def test_programs_that_the_app_starts_do_not_inherit_the_lifeline(lifeline: Lifeline) -> None:
    import subprocess

    listed = subprocess.run(
        [sys.executable, "-c", "import os; print(os.listdir('/proc/self/fd'))"],
        capture_output=True,
        text=True,
        check=True,
        close_fds=False,
    ).stdout
    assert f"'{lifeline._writing}'" not in listed
