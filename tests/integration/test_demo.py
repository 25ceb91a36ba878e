"""The demonstration, as `make demo` runs it: it works, and leaves nothing behind, however it ends."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from logos_deploy.exits import Exit
from logos_deploy.node.handles import ProcessHandle
from tests.integration.logos_node import clean_environment, wait_for

pytestmark = pytest.mark.integration

DEMO = (str(Path(sys.executable).with_name("logos")), "demo")


def descendants(root: int) -> list[int]:
    """Processes below `root` now."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found, waiting = [], [root]
    while waiting:
        parent = waiting.pop()
        children = [pid for pid, above in parents.items() if above == parent]
        found += children
        waiting += children
    return found


class Demo:
    """A demonstration whose processes are all held on to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean_environment()
        )
        self.handles: dict[int, ProcessHandle] = {}
        self.lines: list[str] = []

    def read_until(self, text: str) -> None:
        """Read lines, remembering the processes there are at each step."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("["):  # not at each line: on a busy machine it would be seconds behind
                self.remember()
            if text in line:
                return
        raise AssertionError(f"the demonstration never said {text!r}:\n{''.join(self.lines)}")

    def remember(self) -> None:
        for pid in descendants(self.process.pid):
            if pid not in self.handles:
                with contextlib.suppress(ProcessLookupError):
                    self.handles[pid] = ProcessHandle(pid)

    def alive(self) -> list[int]:
        return [pid for pid, handle in self.handles.items() if handle.alive()]

    def directory(self) -> Path:
        match = re.search(r"/tmp/logos-\w+", self.lines[0])
        assert match is not None
        return Path(match[0])

    def finish(self) -> int:
        assert self.process.stdout is not None
        self.lines += self.process.stdout.readlines()
        return self.process.wait(30)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        for handle in self.handles.values():
            handle.kill()
            handle.close()


def test_it_works_and_leaves_nothing() -> None:
    demo = Demo()
    try:
        demo.read_until("nothing is left running")
        assert demo.finish() == Exit.OK, "".join(demo.lines)
        text = "".join(demo.lines)
        assert "each was received by both apps, exactly once" in text
        assert "150 KiB" in text
        assert text.count("$ curl") == 3
        assert '"nodeHealth":"READY"' in text
        assert "aGVsbG8gb3ZlciBIVFRQ" in text.split("data: ")[1]
        assert text.count("kill -9") == 2
        # two supervisords, two kernels, two MAPIs, and the two that came in place of the killed
        assert len(demo.handles) >= 8
        assert demo.alive() == []
        assert not demo.directory().exists()
    finally:
        demo.close()


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("two nodes on loopback", signal.SIGINT),
        ("kill -9 of the kernel", signal.SIGTERM),
    ],
)
def test_interrupted_it_leaves_nothing(moment: str, number: int) -> None:
    demo = Demo()
    try:
        demo.read_until(moment)
        demo.process.send_signal(number)
        demo.read_until("nothing is left running")
        assert demo.finish() == Exit.INTERRUPTED
        assert "Traceback" not in "".join(demo.lines)
        assert demo.alive() == []
        assert not demo.directory().exists()
    finally:
        demo.close()


def test_interrupted_twice_it_kills_what_does_not_end() -> None:
    demo = Demo()
    try:
        demo.read_until("node B is ready")
        found = re.search(r"kernel process (\d+)", demo.lines[-1])
        assert found is not None
        os.kill(int(found[1]), signal.SIGSTOP)  # it will not follow TERM
        for text in ("ending both nodes", "nothing is left running"):
            demo.process.send_signal(signal.SIGTERM)
            demo.read_until(text)
        assert demo.finish() == Exit.INTERRUPTED
        assert demo.alive() == []
        assert not demo.directory().exists()
    finally:
        demo.close()


def test_killed_it_leaves_no_process() -> None:
    demo = Demo()
    try:
        demo.read_until("node B is ready")
        os.kill(demo.process.pid, signal.SIGKILL)
        demo.process.wait(10)
        wait_for(lambda: not demo.alive(), "its processes end by themselves")
        shutil.rmtree(demo.directory())  # that much is left
    finally:
        demo.close()
