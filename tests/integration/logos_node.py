"""A `logos up` of a test's own: started, watched, ended, its output at hand."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from logos_deploy.node.handles import ProcessHandle
from tests.support.fork_server import start_module

LOGOS = (sys.executable, "-m", "logos_deploy")
DEADLINE = 40.0
ASKING = frozenset(("apps", "discovery", "forget", "health", "log-level", "peers", "status", "store"))
"""Commands that wait 2 to 5 s for a node's answer, unless `--timeout` says otherwise."""


def clean_environment() -> dict[str, str]:
    """Without variables that would configure the node."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LOGOS_")}


def logos(*arguments: str, timeout: float = DEADLINE, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run a command to its end. A node on a busy machine gets more time to answer than by default."""
    if arguments[0] in ASKING and "--timeout" not in arguments:
        arguments += ("--timeout", "30")
    if stdin:
        done = subprocess.run(
            [*LOGOS, *arguments], input=stdin, capture_output=True, timeout=timeout, env=clean_environment()
        )
        return subprocess.CompletedProcess(
            arguments, done.returncode, done.stdout.decode(), done.stderr.decode()
        )
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = start_module("logos_deploy", arguments, output, errors=errors, env=clean_environment())
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        texts = [(file.seek(0), file.read().decode())[1] for file in (output, errors)]
    return subprocess.CompletedProcess(arguments, code, *texts)


def wait_for(condition: Callable[[], object], what: str, timeout: float = DEADLINE) -> None:
    """Wait for something outside this process."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout:g} s"
        time.sleep(0.05)


class LogosUp:
    """One `logos up` in the background."""

    def __init__(
        self,
        data_dir: Path,
        *arguments: str,
        automatic_port: bool = True,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """`cwd`: run there, and name the data directory as it is seen from there."""
        port: tuple[str, ...] = ("tcp-port=0",) if automatic_port else ()
        if not any(word.startswith(("listen-address=", "--preset", "preset=")) for word in arguments):
            port += ("listen-address=127.0.0.1",)
        self.data_dir = data_dir
        self.seen: dict[int, ProcessHandle] = {}
        self._output = data_dir.with_name(data_dir.name + ".out")
        with self._output.open("wb") as file:
            self.process = subprocess.Popen(
                [
                    *LOGOS,
                    "up",
                    "--data-dir",
                    os.path.relpath(data_dir, cwd) if cwd else data_dir,
                    *port,
                    *arguments,
                ],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**clean_environment(), **(environ or {})},
            )

    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_said(self, text: str, times: int = 1) -> None:
        """Wait until the text stands in the output so often."""

        def said() -> bool:
            output = self.output()
            assert self.process.poll() is None or output.count(text) >= times, output
            return output.count(text) >= times

        wait_for(said, f"{text!r} in the output of logos up")

    def status(self) -> dict[str, Any]:
        """`logos status --json`."""
        done = logos("status", "--json", "--data-dir", str(self.data_dir))
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def pid_of(self, program: str) -> int:
        """The process, as its own health tells; remembered."""
        pid: int = self.status()[program]["pid"]
        return self.remember(pid)

    def supervisor_pid(self) -> int:
        return self.remember(int((self.data_dir / "supervisor" / "supervisord.pid").read_text()))

    def remember(self, pid: int) -> int:
        if pid not in self.seen:
            self.seen[pid] = ProcessHandle(pid)
        return pid

    def alive(self) -> list[int]:
        """Of the processes remembered, those that still run."""
        return [pid for pid, handle in self.seen.items() if handle.alive()]

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it in good order; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.end()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for handle in self.seen.values():
            handle.kill()
            handle.close()


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose path leaves room for socket names."""
    path = Path(tempfile.mkdtemp(prefix="lt-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
