"""The client under test, in a process of its own: commands and answers as lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Broken(Exception):
    """The client under test, or the scenario, failed an expectation."""


class Lacking(Broken):
    """The client under test does not offer what the scenario is about."""


class Adapter:
    """The client under test: a process that takes commands on its standard input."""

    def __init__(self, command: Sequence[str], cwd: Path | None) -> None:
        self._process = subprocess.Popen(command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.fd = self._process.stdout.fileno()
        os.set_blocking(self.fd, False)
        self._buffer = b""
        self._last_id = 0
        self.answers: dict[int, dict[str, Any]] = {}

    def begin(self, command: str, arguments: dict[str, Any]) -> int:
        """Send a command. Return its number."""
        self._last_id += 1
        assert self._process.stdin is not None
        line = json.dumps({"id": self._last_id, "cmd": command, **arguments}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except OSError:
            raise Broken("the adapter has ended") from None
        return self._last_id

    def receive(self) -> None:
        """Read its output so far."""
        try:
            chunk = os.read(self.fd, 1 << 20)
        except BlockingIOError:
            return
        if not chunk:
            raise Broken(f"the adapter has ended with exit code {self._process.wait()}")
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            self.answers[answer["id"]] = answer

    def wait(self, seconds: float) -> None:
        """Read its output, waiting at most so long for some."""
        select.select([self.fd], [], [], seconds)
        self.receive()

    def pause(self) -> None:
        """Let the client's process stand still."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop the client."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # it has ended by itself
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
