"""A real Messaging API process for tests: `python -m mapi_proc` on a data directory of the test."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ipc_schema.errors import IpcError
from ipc_schema.frames import is_app_event
from ipc_schema.paths import mapi_endpoints
from logos_client._connection import RequestConnection
from tests.support.fork_server import ChildProcess, start_module
from tests.support.kernel_process import REPLY_SECONDS, Dealer

READY_S: Final = 60.0


class AppDealer(Dealer):
    """A plain socket of an app that wants answers only: the events between them are passed over."""

    def frames(self, seconds: float = REPLY_SECONDS) -> list[bytes]:
        """Return the next message that is not an event."""
        until = time.monotonic() + seconds
        while True:
            frames = super().frames(max(0.0, until - time.monotonic()))
            if len(frames) < 2 or not is_app_event(frames[1]):
                return frames


async def control_request(
    endpoint: str, method: str, body: dict[str, object] | None = None, *, timeout: float = READY_S
) -> dict[str, Any]:
    """One request on a control socket. Raises IpcError."""
    connection = RequestConnection(endpoint)
    try:
        return dict((await connection.request(method, body, timeout=timeout)).body)
    finally:
        await connection.close()


class MapiProcess:
    """One `mapi_proc`. A context manager; `kill` is SIGKILL, `start` runs it again on the same directory."""

    def __init__(
        self,
        data_dir: Path,
        *options: str,
        kernel_dir: Path | None = None,
        through: Sequence[str] = (),
        constants: Mapping[str, float] | None = None,
    ) -> None:
        """`through` and `constants`: as in `start_module`."""
        self._through = through
        self._constants = constants
        self.data_dir = data_dir
        self.run_dir = data_dir / "run"
        self.log = data_dir.parent / f"{data_dir.name}.mapi.log"
        self._options = list(options)
        if kernel_dir is not None:
            self._options += ["--kernel-dir", str(kernel_dir / "run")]
        self._process: ChildProcess | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def control(self) -> str:
        return mapi_endpoints(self.run_dir).control

    def start(self) -> Self:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = start_module(
                "mapi_proc",
                [f"--data-dir={self.data_dir}", *self._options],
                log,
                through=self._through,
                constants=self._constants,
            )
        return self

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout)

    def wait(self, timeout: float = READY_S) -> int:
        """Wait for its own end; the exit code."""
        assert self._process is not None
        return self._process.wait(timeout)

    def logged(self) -> str:
        return self.log.read_text(errors="replace")

    async def ask(self, method: str, body: dict[str, object] | None = None) -> dict[str, Any]:
        """A request on the control socket. Raises IpcError."""
        return await control_request(self.control, method, body)

    async def health(self) -> dict[str, Any]:
        return await self.ask("health")

    async def serving(self) -> dict[str, Any]:
        """Wait until it answers, with or without a kernel."""
        return await self._until(lambda _health: True, READY_S)

    async def ready(self, timeout: float = READY_S) -> dict[str, Any]:
        """Wait until it serves and its kernel is up."""
        return await self._until(lambda health: bool(health["ready"]), timeout)

    async def _until(self, check: Callable[[dict[str, Any]], bool], timeout: float) -> dict[str, Any]:
        until = time.monotonic() + timeout
        while True:
            assert self._process is not None
            assert self._process.poll() is None, f"mapi_proc ended: {self.logged()}"
            try:
                health = await control_request(self.control, "health", timeout=1.0)
            except IpcError:
                health = {}
            if health and check(health):
                return health
            assert time.monotonic() < until, f"not ready: {health}\n{self.logged()}"
            await asyncio.sleep(0.05)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
