"""Relay nodes in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


class Process:
    """A child that runs `tests.support.relay_process`."""

    def __init__(self, key: str | None = None) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.support.relay_process", *([key] if key else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        hello = self.answer()
        self.address: str = hello["address"]
        self.peer_id: str = hello["peer_id"]

    def tell(self, command: str, **fields: Any) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"command": command, **fields}) + "\n")
        self._child.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        assert line, "the process ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        self.tell(command, **fields)
        return self.answer()

    def meshed(self, *others: Process) -> None:
        deadline = time.monotonic() + 15
        while not {o.peer_id for o in others} <= set(self.ask("stats")["mesh"]):
            assert time.monotonic() < deadline

    def end(self) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        try:
            assert self._child.wait(60) == 0
        finally:
            self._child.kill()
            self._child.stdout.close()

    def kill(self) -> None:
        self._child.kill()
        self._child.wait(10)
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.stdout.close()


@contextmanager
def processes(count: int) -> Iterator[list[Process]]:
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            process = Process()
            stack.callback(process.end)
            started.append(process)
        yield started


def test_an_unpaced_burst_through_a_middle_process_loses_nothing() -> None:
    with processes(3) as (a, b, c):
        a.ask("connect", address=b.address)
        b.ask("connect", address=c.address)
        for process, others in ((a, [b]), (b, [a, c]), (c, [b])):
            process.meshed(*others)
        c.tell("received", count=6000)
        a.ask("publish", count=6000, size=1024)
        got = c.answer()
        assert (got["received"], got["distinct"]) == (6000, 6000)
        middle = b.ask("stats")
        assert (middle["received"], middle["distinct"]) == (6000, 6000)
        assert middle["counters"]["dropped_messages"] == 0


def test_six_processes_in_a_ring_all_get_everything_once() -> None:
    with processes(6) as ring:
        for n, process in enumerate(ring):
            process.ask("connect", address=ring[n - 1].address)
        for process in ring:
            process.tell("publish", count=200, size=1024)
        for process in ring:
            process.answer()
        for process in ring:
            got = process.ask("received", count=1000)
            assert got["received"] == 1000


def test_a_process_that_was_killed_is_back_in_the_mesh_at_once() -> None:
    key = "11" * 32
    with processes(1) as (a,):
        b = Process(key)
        b.ask("connect", address=a.address)
        a.meshed(b)
        b.kill()
        b = Process(key)
        try:
            b.ask("connect", address=a.address)
            a.meshed(b)  # long before the back-off of a pruned peer, a minute, is over
            a.ask("publish", count=10, size=100)
            assert b.ask("received", count=10)["received"] == 10
        finally:
            b.end()
