"""`logos up`: supervision, restarts, a clean end in every way to end, one node for one data directory."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from logos_deploy.exits import Exit
from tests.integration.logos_node import LogosUp, logos, short_directory, wait_for

pytestmark = pytest.mark.integration


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture
def up(directory: Path) -> Iterator[Callable[..., LogosUp]]:
    running: list[LogosUp] = []

    def start(*arguments: str, name: str = "n") -> LogosUp:
        node = LogosUp(directory / name, *arguments)
        running.append(node)
        return node

    yield start
    for node in running:
        node.close()


def test_a_whole_node_from_start_to_end(up: Callable[..., LogosUp]) -> None:
    node = up()
    node.wait_said("the node is ready: apps connect to")
    status = node.status()
    assert status["kernel"]["ready"]
    assert status["mapi"]["ready"]
    pids = [node.pid_of("kernel"), node.pid_of("mapi"), node.supervisor_pid()]

    supervisor = node.data_dir / "supervisor"
    assert stat.S_IMODE(supervisor.stat().st_mode) == 0o700
    for file in supervisor.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
    for pid in pids[:2]:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        assert f"--data-dir={node.data_dir}" in arguments
        umask = next(
            line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Umask")
        )
        assert umask.split()[1] == "0077"

    assert node.end(signal.SIGINT) == Exit.OK
    assert node.alive() == []
    output = node.output()
    assert "SIGINT: ending the node" in output
    assert "kernel     | " in output
    assert "mapi       | " in output
    assert "INF ready" in (supervisor / "kernel.log").read_text()


def test_both_processes_come_back_after_kill_9(up: Callable[..., LogosUp]) -> None:
    node = up()
    node.wait_said("the node is ready")
    for program in ("mapi", "kernel"):
        killed = node.pid_of(program)
        os.kill(killed, signal.SIGKILL)
        node.wait_said(f"{program} is started again")
        node.wait_said(f"{program} is ready", times=2)
        assert node.pid_of(program) != killed
    node.wait_said("the node is ready", times=3)
    assert node.end() == Exit.OK
    assert node.alive() == []


@pytest.mark.parametrize("victim", ["supervisord", "logos up"])
def test_nothing_is_left_when_a_supervising_process_is_killed(
    up: Callable[..., LogosUp], victim: str
) -> None:
    node = up()
    node.wait_said("the node is ready")
    pids = [node.pid_of("kernel"), node.pid_of("mapi"), node.supervisor_pid()]
    os.kill(pids[2] if victim == "supervisord" else node.process.pid, signal.SIGKILL)
    code = node.process.wait(30)
    wait_for(lambda: not node.alive(), "everything has ended")
    if victim == "supervisord":
        assert code == Exit.FAILED
        assert "supervisord has ended" in node.output()
    # and the directory is free for the next
    again = up()
    again.wait_said("the node is ready")
    assert again.end() == Exit.OK


def test_a_second_node_on_the_same_data_directory_is_refused(up: Callable[..., LogosUp]) -> None:
    node = up()
    node.wait_said("the node is ready")
    second = logos("up", "--data-dir", str(node.data_dir), "tcp-port=0")
    assert second.returncode == Exit.IN_USE
    assert f"in use by process {node.process.pid}" in second.stderr
    assert node.status()["kernel"]["ready"]


def test_a_data_directory_whose_kernel_was_started_by_hand_is_refused(
    up: Callable[..., LogosUp], directory: Path
) -> None:
    data_dir = directory / "n"
    kernel = subprocess.Popen(
        [sys.executable, "-m", "kernel_proc", "--data-dir", str(data_dir), "--tcp-port", "0"],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: (data_dir / "run" / "kernel" / "control").exists(), "the kernel's socket")
        second = logos("up", "--data-dir", str(data_dir), "tcp-port=0")
        assert second.returncode == Exit.IN_USE
        assert f"in use by a kernel, process {kernel.pid}" in second.stderr
        assert kernel.poll() is None
    finally:
        kernel.terminate()
        kernel.wait(20)


def test_the_kernel_alone(up: Callable[..., LogosUp]) -> None:
    node = up("--kernel-only")
    node.wait_said("the node is ready: tools connect to")
    status = node.status()
    assert status["kernel"]["ready"]
    assert status["mapi"] is None
    shown = logos("status", "--data-dir", str(node.data_dir))
    assert shown.returncode == Exit.OK
    assert shown.stdout.rstrip().endswith("mapi    none")
    assert not (node.data_dir / "mapi.sqlite3").exists()
    assert node.end() == Exit.OK


def test_what_only_the_process_can_refuse_ends_everything_with_78(
    up: Callable[..., LogosUp], directory: Path
) -> None:
    """A node key that is no key: no check of the options finds that."""
    data_dir = directory / "n"
    data_dir.mkdir(mode=0o700)
    (data_dir / "nodekey").write_text("this is not a key\n")
    (data_dir / "nodekey").chmod(0o600)
    node = up()
    assert node.process.wait(30) == Exit.CONFIG
    assert "kernel refused its configuration" in node.output()


def test_a_node_that_cannot_live_is_given_up(up: Callable[..., LogosUp], directory: Path) -> None:
    """A database that is none makes MAPI end at once, whatever its exit code: never an endless loop."""
    data_dir = directory / "n"
    data_dir.mkdir(mode=0o700)
    (data_dir / "mapi.sqlite3").mkdir()
    node = up()
    assert node.process.wait(60) in (Exit.FAILED, Exit.CONFIG)
    assert "mapi" in node.output().splitlines()[-1]


def test_a_second_signal_kills_what_does_not_end(up: Callable[..., LogosUp]) -> None:
    node = up()
    node.wait_said("the node is ready")
    kernel = node.pid_of("kernel")
    node.pid_of("mapi")
    node.supervisor_pid()
    os.kill(kernel, signal.SIGSTOP)  # it will not follow TERM
    node.process.send_signal(signal.SIGTERM)
    node.wait_said("SIGTERM: ending the node")
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(5) == Exit.OK
    assert node.alive() == []
    assert "killing what is left" in node.output()


def test_supervisorctl_works_by_hand(up: Callable[..., LogosUp]) -> None:
    node = up()
    node.wait_said("the node is ready")
    conf = node.data_dir / "supervisor" / "supervisord.conf"
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(conf), "status"],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["kernel", "RUNNING"],
        ["mapi", "RUNNING"],
    ]


def test_odd_characters_in_the_data_directory(up: Callable[..., LogosUp]) -> None:
    node = up(name="50% of 'it'")
    node.wait_said("the node is ready")
    assert node.end() == Exit.OK
    refused = up(name="a ;b")
    assert refused.process.wait(20) == Exit.CONFIG
    assert "data-dir: " in refused.output()


def test_a_port_in_use_is_refused_by_its_key(directory: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = logos("up", "--data-dir", str(directory / "n"), f"tcp-port={port}")
    assert done.returncode == Exit.CONFIG
    assert f"tcp-port: port {port}" in done.stderr
    assert not (directory / "n").exists()
