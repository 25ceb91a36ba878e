"""A child process driven over JSON lines: commands on its stdin, replies and events on its stdout.

Blocking, for plain test functions. A command is `{"id", "cmd", …}`, its reply
`{"id", "ok", "result" | "error"}`; every other line is an event `{"event", …}`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tests.interop.inbox import CommandError, Event, EventInbox, PeerEndedError, PeerError

STOP_SECONDS = 5.0


class JsonLinesProcess(EventInbox):
    """One child. `close` stops it, and kills it when it does not."""

    def __init__(
        self, name: str, command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(name)
        self._replies: dict[int, Event] = {}
        self._next_id = 0
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # a Ctrl-C at the terminal reaches pytest, which stops us in good order
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._stdin: IO[str] = self._process.stdin
        self._stdout: IO[str] = self._process.stdout
        self._readers = [
            threading.Thread(target=self._read_lines, name=f"{name} stdout", daemon=True),
            threading.Thread(
                target=self._read_stderr, args=(self._process.stderr,), name=f"{name} stderr", daemon=True
            ),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    # --- reading ------------------------------------------------------------------------------------------

    def _read_lines(self) -> None:
        for line in self._stdout:
            try:
                entry = json.loads(line)
            except ValueError:
                self._log.append(f"(no JSON on stdout) {line.rstrip()}")
                continue
            if "id" not in entry:
                self._put(entry)
                continue
            with self._changed:
                self._replies[entry["id"]] = entry
                self._changed.notify_all()
        # What it said last, and how it ended, belong in the error of the caller that waits for it.
        self._readers[1].join(STOP_SECONDS)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._log.append(f"(ended with status {self._process.wait(STOP_SECONDS)})")
        self._end()

    def _read_stderr(self, pipe: IO[str]) -> None:
        for line in pipe:
            self._log.append(line.rstrip())

    # --- talking ------------------------------------------------------------------------------------------

    def request(self, cmd: str, *, deadline: float = 30.0, **arguments: Any) -> Any:
        """Run one command and return its result. Raises CommandError, PeerTimeoutError, PeerEndedError."""
        self._next_id += 1
        command = {"id": self._next_id, "cmd": cmd, **arguments}
        try:
            self._stdin.write(json.dumps(command) + "\n")
            self._stdin.flush()
        except BrokenPipeError as error:
            raise PeerEndedError(f"{self.name} is gone, {cmd!r} was not sent{self._story()}") from error
        reply = self._wait(f"reply to {cmd!r}", lambda: self._replies.pop(command["id"], None), deadline)
        if not reply["ok"]:
            raise CommandError(f"{self.name}: {cmd}: {reply['error']}")
        return reply["result"]

    # --- ending -------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL, and clean up."""
        self._process.kill()
        self._clean_up()

    def close(self) -> None:
        """Ask the child to stop, kill it when it does not; no error if it is gone already."""
        if self._process.poll() is None:
            try:
                self.request("stop", deadline=STOP_SECONDS)
                self._process.wait(STOP_SECONDS)
            except (PeerError, subprocess.TimeoutExpired):
                self._process.kill()
        self._clean_up()

    def _clean_up(self) -> None:
        self._process.wait(STOP_SECONDS)
        for reader in self._readers:
            reader.join(STOP_SECONDS)
        with contextlib.suppress(BrokenPipeError):  # a command may still be in its buffer
            self._stdin.close()
        self._stdout.close()
        if self._process.stderr is not None:
            self._process.stderr.close()
