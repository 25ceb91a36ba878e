"""`logos up`: supervision, restarts, a clean end in every way to end, one node for one data directory."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from logos_deploy.exits import Exit
from tests.integration.logos_node import LogosUp, clean_environment, logos, short_directory, wait_for

pytestmark = pytest.mark.integration


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture
def up(directory: Path) -> Iterator[Callable[..., LogosUp]]:
    running: list[LogosUp] = []

    def start(*arguments: str, name: str = "n", cwd: Path | None = None) -> LogosUp:
        node = LogosUp(directory / name, *arguments, cwd=cwd)
        running.append(node)
        return node

    yield start
    for node in running:
        node.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[LogosUp]:
    """A node that runs, and that each test leaves running."""
    with short_directory() as path:
        node = LogosUp(path / "n")
        try:
            node.wait_said("the node is ready: apps connect to")
            yield node
        finally:
            node.close()


def test_directories_may_be_named_as_they_are_seen_from_here(
    up: Callable[..., LogosUp], directory: Path
) -> None:
    node = up("ipc-dir=sockets", cwd=directory)
    node.wait_said(f"the node is ready: apps connect to ipc://{directory}/sockets/mapi/apps")


def test_a_node_is_private(shared: LogosUp) -> None:
    status = shared.status()
    assert status["kernel"]["ready"]
    assert status["mapi"]["ready"]
    supervisor = shared.data_dir / "supervisor"
    assert stat.S_IMODE(supervisor.stat().st_mode) == 0o700
    for file in supervisor.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
    for pid in (shared.pid_of("kernel"), shared.pid_of("mapi")):
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        assert f"--data-dir={shared.data_dir}" in arguments
        umask = next(
            line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Umask")
        )
        assert umask.split()[1] == "0077"
    output = shared.output()
    assert "kernel     | " in output
    assert "mapi       | " in output
    assert "INF ready" in (supervisor / "kernel.log").read_text()


def test_a_second_node_on_the_same_data_directory_is_refused(shared: LogosUp) -> None:
    conf = (shared.data_dir / "supervisor" / "supervisord.conf").read_text()
    for how in ("tcp-port=0", "--write-only"):
        second = logos("up", "--data-dir", str(shared.data_dir), how)
        assert second.returncode == Exit.IN_USE
        assert f"is in use by a running node (process {shared.process.pid})" in second.stderr
    assert (shared.data_dir / "supervisor" / "supervisord.conf").read_text() == conf
    assert shared.status()["kernel"]["ready"]


def test_supervisorctl_works_by_hand(shared: LogosUp) -> None:
    conf = shared.data_dir / "supervisor" / "supervisord.conf"
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


def test_both_processes_come_back_after_kill_9(shared: LogosUp) -> None:
    for program in ("mapi", "kernel"):
        killed = shared.pid_of(program)
        os.kill(killed, signal.SIGKILL)
        shared.wait_said(f"{program} was restarted")
        shared.wait_said(f"{program} is ready", times=2)
        assert shared.pid_of(program) != killed
    shared.wait_said("the node is ready", times=3)


@pytest.mark.parametrize("victim", ["supervisord", "logos up", "both"])
def test_nothing_is_left_when_a_supervising_process_is_killed(
    up: Callable[..., LogosUp], victim: str
) -> None:
    node = up()
    node.wait_said("the node is ready")
    pids = [node.pid_of("kernel"), node.pid_of("mapi"), node.supervisor_pid()]
    victims = {"supervisord": [pids[2]], "logos up": [node.process.pid], "both": [node.process.pid, pids[2]]}
    for pid in victims[victim]:
        os.kill(pid, signal.SIGKILL)
    code = node.process.wait(30)
    wait_for(lambda: not node.alive(), "everything has ended")
    if victim == "supervisord":
        assert code == Exit.FAILED
        assert "supervisord has ended" in node.output()
    # and the directory is free for the next
    free = logos("up", "--data-dir", str(node.data_dir), "--write-only")
    assert free.returncode == Exit.OK, free.stderr


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
        assert f"is in use by a running node (its kernel is process {kernel.pid})" in second.stderr
        assert kernel.poll() is None
        down = logos("down", "--data-dir", str(data_dir), "--json")
        assert down.returncode == Exit.OK, down.stderr
        assert json.loads(down.stdout)["how"] == "control"
        assert kernel.wait(20) == 0
    finally:
        kernel.kill()
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
    node.pid_of("kernel")
    node.supervisor_pid()
    assert node.end(signal.SIGINT) == Exit.OK
    assert node.alive() == []
    assert "SIGINT: stopping the node" in node.output()


def test_what_only_the_process_can_refuse_ends_everything_with_78(
    up: Callable[..., LogosUp], directory: Path
) -> None:
    """An invalid node key file, which no check of the options finds."""
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
    for pid in (kernel, node.supervisor_pid()):
        os.kill(pid, signal.SIGSTOP)  # it will not follow TERM, and is killed after 24 s without a second one
    node.process.send_signal(signal.SIGTERM)
    node.wait_said("SIGTERM: stopping the node")
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(20) == Exit.OK
    assert node.alive() == []
    assert "killing the remaining processes" in node.output()


def test_three_nodes_on_one_host_by_ports_shift(directory: Path) -> None:
    """Each with a data directory and ports of its own; one of them in a directory with odd characters."""
    port, metrics = (free_port(room=4) for _ in range(2))
    nodes = []
    try:
        for number, name in enumerate(("a", "b", "50% of 'it'")):
            words = [f"tcp-port={port}", f"ports-shift={number}", "metrics-server=true"]
            words.append(f"metrics-server-port={metrics}")
            nodes.append(LogosUp(directory / name, *words, automatic_port=False))
        for number, node in enumerate(nodes):
            node.wait_said("the node is ready")
            node.wait_said(f"metrics at http://127.0.0.1:{metrics + number}")
            (address,) = node.status()["kernel"]["info"]["MyMultiaddresses"]
            assert f"/tcp/{port + number}/" in address
            with socket.create_connection(("127.0.0.1", metrics + number), timeout=5):
                pass
            served = {"pid": node.pid_of("gateway"), "metrics": f"http://127.0.0.1:{metrics + number}"}
            assert node.status()["gateway"] == served
        assert len({node.status()["kernel"]["info"]["MyPeerId"] for node in nodes}) == 3
        for node in nodes:
            pids = [node.pid_of("kernel"), node.pid_of("mapi"), node.supervisor_pid()]
            down = logos("down", "--data-dir", str(node.data_dir), "--json")
            assert down.returncode == Exit.OK, down.stderr
            answer = json.loads(down.stdout)
            assert answer["how"] == "logos up"
            assert {"role": "kernel", "pid": pids[0]} in answer["processes"]
            assert node.process.wait(30) == Exit.OK
            assert node.alive() == []
    finally:
        for node in nodes:
            node.close()
    again = logos("down", "--data-dir", str(nodes[0].data_dir))
    assert (again.returncode, again.stdout) == (Exit.OK, f"no node runs in {nodes[0].data_dir}\n")


def free_port(room: int) -> int:
    """A TCP port that is free now, below so many that very likely are."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1]) - room


def test_supervisord_by_hand_on_the_file_that_up_writes(directory: Path) -> None:
    data_dir = directory / "n"
    written = logos("up", "--data-dir", str(data_dir), "tcp-port=0", "--write-only")
    assert written.returncode == Exit.OK, written.stderr
    command = shlex.split(written.stdout.splitlines()[1].removeprefix("run it:"))
    assert not (data_dir / "run").exists()
    supervisord = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=clean_environment())
    try:
        ready = logos("health", "--data-dir", str(data_dir), "--wait", "30", "--json")
        assert ready.returncode == Exit.OK, ready.stdout
        assert json.loads(ready.stdout)["ready"]
        down = logos("down", "--data-dir", str(data_dir), "--json")
        assert down.returncode == Exit.OK, down.stderr
        assert json.loads(down.stdout)["how"] == "supervisord"
        assert supervisord.wait(20) == 0
    finally:
        supervisord.kill()
        supervisord.wait(20)


def test_a_path_that_supervisord_cannot_take_is_refused(directory: Path) -> None:
    refused = logos("up", "--data-dir", str(directory / "a ;b"), "--write-only")
    assert refused.returncode == Exit.CONFIG
    assert "data-dir: " in refused.stderr


def test_down_kills_what_does_not_end(up: Callable[..., LogosUp]) -> None:
    node = up("--kernel-only")
    node.wait_said("the node is ready")
    kernel = node.pid_of("kernel")
    node.supervisor_pid()
    os.kill(kernel, signal.SIGSTOP)  # it will not follow TERM
    killed = logos("down", "--kill", "--data-dir", str(node.data_dir), "--timeout", "0.5")
    assert killed.returncode == Exit.OK, killed.stdout
    assert killed.stdout.startswith("killed: ")
    wait_for(lambda: not node.alive(), "everything has ended")


def test_a_port_in_use_is_refused_by_its_key(directory: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = logos("up", "--data-dir", str(directory / "n"), f"tcp-port={port}")
    assert done.returncode == Exit.FAILED  # it may be free later: a service manager tries again
    assert f"tcp-port: port {port}" in done.stderr
    assert not (directory / "n").exists()
