"""An app in a process of its own, to be killed or frozen: it writes down each event, one JSON line each.

As a program: `python -m tests.support.app_process RUN_DIR FILE [--name …] [--topic …] [--credit …]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from logos_client.events import LinkLost, LinkRestored, MessageReceived, TakenOver
from logos_client.messaging import DEFAULT_CREDIT, MessagingClient
from tests.support.nodes import TOPIC

_ROOT: Final = Path(__file__).resolve().parents[2]
START_S: Final = 20.0


class AppProcess:
    """The app as a child. `kill` is SIGKILL; `start` begins a new one that writes to the same file."""

    def __init__(self, directory: Path, file: Path, *options: str) -> None:
        """`directory`: of the node (the one with `run`)."""
        self.file = file
        self._command = [
            sys.executable,
            "-m",
            "tests.support.app_process",
            str(directory / "run"),
            str(file),
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it; wait until it is subscribed."""
        before = self.count("ready")
        path = os.pathsep.join(map(str, (_ROOT, _ROOT / "client", _ROOT / "deploy")))
        self._process = subprocess.Popen(self._command, env={**os.environ, "PYTHONPATH": path}, cwd=_ROOT)
        until = time.monotonic() + START_S
        while self.count("ready") == before:
            assert self._process.poll() is None, "the app ended"
            assert time.monotonic() < until, "the app did not start"
            time.sleep(0.02)
        return self

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def lines(self) -> list[dict[str, Any]]:
        """Everything written so far. A line that the kill cut off is left out."""
        if not self.file.exists():
            return []
        text = self.file.read_text()
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The lines of a kind (the event's class, or `ready`)."""
        return [line for line in self.lines() if line["kind"] == kind]

    def count(self, kind: str) -> int:
        return len(self.of(kind))


async def _run(run_dir: str, file: str, name: str | None, topic: str, credit: int) -> None:
    out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(kind: str, **fields: object) -> None:
        os.write(out, (json.dumps({"kind": kind, **fields}) + "\n").encode())

    async with MessagingClient.connect(run_dir, name=name, credit=credit, timeout=START_S) as client:
        position = client._greeting.stream
        errors = await client.subscribe(topic)
        assert not errors, errors
        write("ready", stream=position.id.hex(), acked=position.acked, last=position.last)
        async for event in client:
            kind = type(event).__name__
            if isinstance(event, LinkLost | LinkRestored | TakenOver):
                write(kind)
                continue
            fields: dict[str, object] = {"stream": event.stream_id.hex(), "seq": event.seq}
            if isinstance(event, MessageReceived):
                fields |= {"head": event.payload[:16].decode("latin-1"), "size": len(event.payload)}
            elif kind == "EventsDropped":
                fields |= {"first": event.first, "last": event.last}  # type: ignore[union-attr]
            write(kind, **fields)


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir")
    parser.add_argument("file")
    parser.add_argument("--name")
    parser.add_argument("--topic", default=TOPIC)
    parser.add_argument("--credit", type=int, default=DEFAULT_CREDIT)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    given = parser.parse_args()
    asyncio.run(_run(given.run_dir, given.file, given.name, given.topic, given.credit))


if __name__ == "__main__":
    _main()
