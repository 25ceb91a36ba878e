"""The pipe to the parent: what a child takes, and the moment the parent is gone."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from ipc_schema.config.options import ConfigError
from logos_process import parent_watch
from logos_process.parent_watch import PARENT, ParentPipe, take_parent


def test_without_one() -> None:
    assert take_parent({"PATH": "/bin"}) is None


def test_it_is_taken_and_no_child_inherits_it() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    environ = {PARENT: str(reading)}
    assert take_parent(environ) == reading
    assert environ == {}
    assert not os.get_inheritable(reading)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("given", ["", "x", "-1", "99999", str(1 << 70), "closed", "file"])
def test_a_descriptor_that_is_not_a_pipe_is_rejected(given: str) -> None:
    opened = os.open(os.devnull, os.O_RDONLY)
    text = {"closed": str(opened + 1000), "file": str(opened)}.get(given, given)
    with pytest.raises(ConfigError, match=PARENT):
        take_parent({PARENT: text})
    os.close(opened)


CHILD = """
import os, signal, time
from logos_process import parent_watch
from logos_process.parent_watch import take_parent, watch_parent
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
watch_parent(take_parent(os.environ), lambda: os.write(1, b"gone "))
os.write(1, b"up ")
while True:
    time.sleep(1)
"""


def child(pipe: ParentPipe, *command: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, PARENT: "0"}
    return subprocess.Popen(
        [sys.executable, *command], stdin=pipe.reading, stdout=subprocess.PIPE, env=environment
    )


def test_it_gets_sigterm_when_the_parent_is_gone() -> None:
    pipe = ParentPipe()
    with child(pipe, "-c", CHILD) as process:
        assert process.stdout is not None
        assert process.stdout.read(3) == b"up "
        assert process.poll() is None
        pipe.cut()
        assert process.stdout.read() == b"gone "
        assert process.wait() == 7


def test_a_module_that_knows_nothing_of_it_ends_too() -> None:
    pipe = ParentPipe()
    with child(pipe, "-m", "logos_process.parent_watch", "http.server", "0") as process:
        assert process.stdout is not None
        pipe.cut()
        assert process.wait() == -signal.SIGTERM
    pipe.cut()


def at_its_end(pipe: ParentPipe) -> bool:
    readable, _, _ = select.select([pipe.reading], [], [], 0)
    return bool(readable)


def test_a_child_that_the_parent_forks_does_not_hold_the_pipe() -> None:
    """It may live on after the parent: the node must not."""
    pipe = ParentPipe()
    reading = os.dup(pipe.reading)
    asked, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(answer, b"1" if not parent_watch._pipes else b"0")
        signal.pause()
    try:
        assert os.read(asked, 1) == b"1"
        assert not at_its_end(pipe)
        pipe.cut()
        assert select.select([reading], [], [], 5)[0]
        assert os.read(reading, 1) == b""
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for descriptor in (reading, asked, answer):
            os.close(descriptor)


def test_programs_that_the_parent_starts_do_not_inherit_the_pipe() -> None:
    pipe = ParentPipe()
    listed = subprocess.run(
        [sys.executable, "-c", "import os; print(os.listdir('/proc/self/fd'))"],
        capture_output=True,
        text=True,
        check=True,
        close_fds=False,
    ).stdout
    assert f"'{pipe._writing}'" not in listed
    pipe.cut()
