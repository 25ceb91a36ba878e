"""A child process driven over JSON lines: commands on its stdin, replies and events on its stdout.

Blocking, for plain test functions; every wait has a deadline, and what ends in a time-out says what the child
wrote. A command is `{"id", "cmd", …}`, its reply `{"id", "ok", "result" | "error"}`; every other line is an
event `{"event", …}`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

Event = dict[str, Any]

STOP_SECONDS = 5.0
_STDERR_LINES = 200


class ChildError(Exception):
    """Root of what a driven process can end in."""


class CommandError(ChildError):
    """The child answered a command with an error; the text is the child's."""


class ChildTimeoutError(ChildError):
    """The event or reply did not come before the deadline."""


class ChildEndedError(ChildError):
    """The child ended while something was awaited from it."""


class JsonLinesProcess:
    """One child. Use it as a context manager; leaving it stops the child (then kills it after 5 s)."""

    def __init__(
        self, name: str, command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._changed = threading.Condition()
        self._events: deque[Event] = deque()
        self._replies: dict[int, Event] = {}
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self._ended = False
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    # --- reading ------------------------------------------------------------------------------------------

    def _read_lines(self) -> None:
        for line in self._stdout:
            try:
                entry = json.loads(line)
            except ValueError:
                self._stderr.append(f"(no JSON on stdout) {line.rstrip()}")
                continue
            with self._changed:
                if "id" in entry:
                    self._replies[entry["id"]] = entry
                else:
                    self._events.append(entry)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read_stderr(self, pipe: IO[str]) -> None:
        for line in pipe:
            self._stderr.append(line.rstrip())

    def _wait(self, what: str, take: Callable[[], Event | None], deadline: float) -> Event:
        """Return what `take` finds, called under the lock after every line read; `deadline` in seconds."""
        end = time.monotonic() + deadline
        with self._changed:
            while (found := take()) is None:
                if self._ended:
                    raise ChildEndedError(f"{self.name} ended while {what} was awaited{self._story()}")
                if not self._changed.wait(end - time.monotonic()):
                    raise ChildTimeoutError(f"{self.name}: no {what} within {deadline:g} s{self._story()}")
        return found

    def _story(self) -> str:
        events = [json.dumps(event)[:200] for event in self._events]
        return "\n".join(["", "events not consumed:", *events, "stderr:", *self._stderr])

    # --- talking ------------------------------------------------------------------------------------------

    def request(self, cmd: str, *, deadline: float = 10.0, **arguments: Any) -> Any:
        """Run one command and return its result. Raises CommandError, ChildTimeoutError, ChildEndedError."""
        self._next_id += 1
        command = {"id": self._next_id, "cmd": cmd, **arguments}
        try:
            self._stdin.write(json.dumps(command) + "\n")
            self._stdin.flush()
        except BrokenPipeError as error:
            raise ChildEndedError(f"{self.name} is gone, {cmd!r} was not sent{self._story()}") from error
        reply = self._wait(f"reply to {cmd!r}", lambda: self._replies.pop(command["id"], None), deadline)
        if not reply["ok"]:
            raise CommandError(f"{self.name}: {cmd}: {reply['error']}")
        return reply["result"]

    def wait_event(
        self, kind: str, matches: Callable[[Event], bool] = lambda event: True, *, deadline: float = 10.0
    ) -> Event:
        """Take and return the first event of this kind that matches; others stay for later calls."""

        def take() -> Event | None:
            for event in self._events:
                if event["event"] == kind and matches(event):
                    self._events.remove(event)
                    return event
            return None

        return self._wait(f"event {kind!r}", take, deadline)

    def pending(self, kind: str) -> list[Event]:
        """Events of this kind that came and were not taken."""
        with self._changed:
            return [event for event in self._events if event["event"] == kind]

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
            except (ChildError, subprocess.TimeoutExpired):
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
