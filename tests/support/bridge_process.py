"""A bridge process of a test's own."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from ipc_schema.paths import bridge_status_file
from tests.integration.logos_node import clean_environment
from tests.support.fork_server import ChildProcess, start_module

DEADLINE = 40.0


class BridgeProcess:
    """`python -m logos_bridge` beside a node whose data directory this is."""

    def __init__(self, data_dir: Path, *arguments: str, constants: dict[str, float] | None = None) -> None:
        """`constants`: as in `start_module`."""
        self._log = data_dir.with_name(f"{data_dir.name}.bridge.log")
        self._status = bridge_status_file(data_dir / "run")
        self._arguments = [f"--data-dir={data_dir}", *arguments]
        self._constants = constants
        self.process: ChildProcess | None = None

    def start(self) -> None:
        """Start it, again."""
        with self._log.open("ab") as log:
            self.process = start_module(
                "logos_bridge", self._arguments, log, env=clean_environment(), constants=self._constants
            )

    def log(self) -> str:
        """Everything that this and earlier bridges of the node wrote."""
        return self._log.read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        """What the running bridge says of itself; empty while it has not."""
        assert self.process is not None
        try:
            found: dict[str, Any] = json.loads(self._status.read_text())
        except FileNotFoundError:
            return {}
        return found if found["pid"] == self.process.pid else {}

    def wait_for(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Wait until its status fulfils the condition."""
        assert self.process is not None
        deadline = time.monotonic() + DEADLINE
        while True:
            status = self.status()
            if status and condition(status):
                return status
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, (status, self.log()[-4000:])
            time.sleep(0.05)

    def wait_ready(self) -> dict[str, Any]:
        """Wait until all its parts work."""
        return self.wait_for(lambda status: status["ready"])

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(DEADLINE)

    def close(self) -> int:
        """End it in good order; the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
