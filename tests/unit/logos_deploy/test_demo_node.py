"""A node of the demonstration: the environment of the person who runs it does not configure it, and why it
does not end is said in a line."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from logos_deploy.demo import story
from logos_deploy.demo.node import DemoNode
from logos_deploy.node.rpc import ProcessState
from logos_deploy.node.supervisor import SupervisorError
from tests.support.aio import asyncio_test


def test_variables_of_another_node_add_no_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOGOS_BRIDGE_NATS_URL", "nats://127.0.0.1:4222")
    monkeypatch.setenv("LOGOS_GATEWAY_REST", "true")
    supervisor = DemoNode("A", tmp_path, 0)._supervisor
    assert [program.name for program in supervisor.programs] == ["kernel", "mapi"]


class Stuck:
    """A node that does not end as it must."""

    async def stop(self) -> None:
        raise OSError("the disk is gone")

    def left_running(self) -> list[int]:
        return []

    def logs(self) -> str:
        return "its log"


def test_a_node_that_does_not_end_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(self: story._Story) -> None:
        self._nodes.append(Stuck())  # type: ignore[arg-type]
        raise SupervisorError("no start")

    monkeypatch.setattr(story._Story, "play", play)
    said: list[str] = []
    assert not asyncio.run(story.play(lambda _: None, said.append))
    assert said == [
        "the demonstration failed: no start",
        "its log",
        "a node did not end as it must: the disk is gone",
    ]


@asyncio_test()
async def test_a_second_signal_kills_a_supervisord_that_hangs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    supervisor = DemoNode("A", tmp_path, 0)._supervisor
    asked = asyncio.Event()

    async def no_answer() -> list[ProcessState]:
        asked.set()
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(supervisor, "processes", no_answer)
    hanging = supervisor._process = await asyncio.create_subprocess_exec("sleep", "infinity")
    stopping = asyncio.create_task(supervisor.stop())
    await asked.wait()
    stopping.cancel()
    await asyncio.wait({stopping})
    assert hanging.returncode == -signal.SIGKILL
