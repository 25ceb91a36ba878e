"""The life of kernel, MAPI and `logos up` where their host is unkind: the log is not read, the terminal
goes, the disk is full, a lock file names a stranger."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from logos_client.blocking.control import ControlClient
from logos_client.exceptions import LogosError
from logos_deploy.exits import Exit
from tests.integration.logos_node import DEADLINE, LOGOS, clean_environment, logos, short_directory, wait_for

pytestmark = pytest.mark.integration

PROCESSES = pytest.mark.parametrize("name", ["kernel", "mapi"])


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def full_pipe() -> tuple[int, int]:
    """A pipe in which nothing more fits."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    return reading, writing


def command(name: str, data_dir: Path) -> list[str]:
    more = ["--tcp-port=0", "--log-level=TRACE"] if name == "kernel" else ["--log-level=TRACE"]
    return [sys.executable, "-m", f"{name}_proc", f"--data-dir={data_dir}", *more]


def answers(name: str, data_dir: Path) -> bool:
    try:
        with ControlClient.connect(f"ipc://{data_dir}/run/{name}/control", timeout=2.0) as control:
            return control.health().pid > 0
    except LogosError:
        return False


@contextlib.contextmanager
def running(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@PROCESSES
def test_a_log_without_a_reader_delays_nothing(directory: Path, name: str) -> None:
    reading, writing = full_pipe()
    with running(
        subprocess.Popen(command(name, directory / "n"), stderr=writing, env=clean_environment())
    ) as process:
        os.close(writing)
        wait_for(lambda: answers(name, directory / "n"), "its control socket")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    os.close(reading)


@PROCESSES
def test_a_log_without_a_reader_or_room_does_not_end_it(directory: Path, name: str) -> None:
    with (
        Path("/dev/full").open("wb") as full,
        running(
            subprocess.Popen(command(name, directory / "n"), stderr=full, env=clean_environment())
        ) as process,
    ):
        wait_for(lambda: answers(name, directory / "n"), "its control socket")
        process.send_signal(signal.SIGHUP)  # asks for a clean end too
        assert process.wait(DEADLINE) == 0


@PROCESSES
def test_closed_standard_descriptors_are_not_given_to_files(directory: Path, name: str) -> None:
    """Or a log line would be written into a database or a socket that got the number 2."""
    closing = "exec 0<&- 1>&- 2>&-; exec "
    with running(
        subprocess.Popen(
            ["/bin/sh", "-c", closing + shlex.join(command(name, directory / "n"))], env=clean_environment()
        )
    ) as process:
        wait_for(lambda: answers(name, directory / "n"), "its control socket")
        for number in range(3):
            assert str(Path(f"/proc/{process.pid}/fd/{number}").readlink()) == "/dev/null"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0


@PROCESSES
def test_a_full_disk_at_the_start_may_pass(directory: Path, name: str) -> None:
    """A limit of 0 bytes a file stands for it: the same calls fail in the same way."""
    done = subprocess.run(
        command(name, directory / "n"),
        stderr=subprocess.PIPE,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    assert done.returncode == 70, done.stderr
    assert b"data-dir" in done.stderr
    assert b"Traceback" not in done.stderr


class TestUp:
    """The output of `logos up`, and the ways to end it without any."""

    @pytest.mark.parametrize("how", ["signal", "down"])
    def test_a_full_pipe(self, directory: Path, how: str) -> None:
        reading, writing = full_pipe()
        with running(self.start(directory, writing)) as up:
            os.close(writing)
            self.wait_ready(directory)
            self.end(directory, up, how)
        os.close(reading)

    def test_a_full_disk(self, directory: Path) -> None:
        with Path("/dev/full").open("wb") as full, running(self.start(directory, full.fileno())) as up:
            self.wait_ready(directory)
            self.end(directory, up, "down")

    def test_a_terminal_that_goes(self, directory: Path) -> None:
        terminal, output = pty.openpty()
        with running(self.start(directory, output, new_session=True)) as up:
            os.close(output)
            self.wait_ready(directory)
            os.close(terminal)  # whatever is written now fails with EIO
            assert answers("kernel", directory / "n")
            self.end(directory, up, "hangup")

    def test_nohup_is_honoured(self, directory: Path) -> None:
        with (
            (directory / "out").open("wb") as out,
            running(self.start(directory, out.fileno(), "nohup")) as up,
        ):
            self.wait_ready(directory)
            up.send_signal(signal.SIGHUP)
            self.end(directory, up, "down")
        assert "SIGHUP" not in (directory / "out").read_text()

    @staticmethod
    def start(
        directory: Path, output: int, *wrapper: str, new_session: bool = False
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*wrapper, *LOGOS, "up", "--data-dir", str(directory / "n"), "--kernel-only", "tcp-port=0"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=clean_environment(),
            start_new_session=new_session,
        )

    @staticmethod
    def wait_ready(directory: Path) -> None:
        wait_for(lambda: answers("kernel", directory / "n"), "the kernel's control socket")

    @staticmethod
    def end(directory: Path, up: subprocess.Popen[bytes], how: str) -> None:
        if how == "down":
            down = logos("down", "--data-dir", str(directory / "n"))
            assert down.returncode == Exit.OK, (down.stdout, down.stderr)
        else:
            up.send_signal(signal.SIGHUP if how == "hangup" else signal.SIGTERM)
        assert up.wait(DEADLINE) == Exit.OK
        assert not answers("kernel", directory / "n")


def test_down_signals_no_stranger(directory: Path) -> None:
    """A lock whose owner wrote its number in another pid namespace: here that number is another process."""
    data_dir = directory / "n"
    environment = clean_environment()
    with (
        running(subprocess.Popen(["sleep", "600"])) as stranger,
        running(
            subprocess.Popen(
                [*LOGOS, "up", "--data-dir", str(data_dir), "--kernel-only", "tcp-port=0"],
                stdout=subprocess.DEVNULL,
                env=environment,
            )
        ) as up,
    ):
        TestUp.wait_ready(directory)
        for lock in (data_dir / "supervisor" / "lock", data_dir / "run" / "kernel" / "lock"):
            lock.write_text(f"{stranger.pid}\n")
        down = logos("down", "--data-dir", str(data_dir), "--kill", "--json")
        assert down.returncode == Exit.OK, (down.stdout, down.stderr)
        assert json.loads(down.stdout)["how"] == "supervisord"
        assert up.wait(DEADLINE) == Exit.OK, "asked to end: no failure that a container restarts"
        assert stranger.poll() is None
