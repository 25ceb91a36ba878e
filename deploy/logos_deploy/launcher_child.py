"""The processes of a launched node, as children that exit with the app in any case (through the pipe of
`logos_process.parent_watch`, which is their standard input)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Mapping
from typing import Final

from logos_deploy.launcher_logs import LogFile
from logos_deploy.node.programs import STOP_SECONDS, Program
from logos_deploy.node.restarts import MAX_RESTARTS, RESTART_WINDOW, RestartLimit
from logos_process.exits import ExitCode
from logos_process.parent_watch import PARENT, ParentPipe

log = logging.getLogger(__name__)

RESTART_SECONDS: Final = 0.5
_POLL: Final = 0.05


class ChildEndedError(Exception):
    """A process exited and is not restarted. `said`: its last lines."""

    def __init__(self, name: str, code: int, said: list[str], why: str = "") -> None:
        last_words = f": {said[-1]}" if said and code else ""
        super().__init__(f"{name} {_how(code)}{why}{last_words}")
        self.name = name
        self.code = code
        self.said = said

    @property
    def refused(self) -> bool:
        return self.code == ExitCode.CONFIG


def _how(code: int) -> str:
    if code < 0:
        return f"was killed by signal {-code}"
    if code == 0:
        return "ended on request"
    return "cannot start as configured" if code == ExitCode.CONFIG else f"ended with exit code {code}"


class Keeper:
    """Keeps one process running, from `keep` until `stop`.

    It is restarted at most five times in half a minute, and not before `settled`: until then its exit fails
    the launch.
    """

    def __init__(
        self, program: Program, environ: Mapping[str, str], pipe: ParentPipe, output: LogFile
    ) -> None:
        self.name = program.name
        self.output = output
        self.restarts = 0
        self.settled = False
        self._program = program
        self._environment = program.environment(environ) | {PARENT: "0"}
        self._pipe = pipe
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def keep(self) -> asyncio.Task[None]:
        """Start it. The task ends with `stop`, or with `ChildEndedError`."""
        self._start()  # here, so that there is a pid
        self._task = asyncio.get_running_loop().create_task(self._keep(), name=f"keeper of {self.name}")
        return self._task

    async def _keep(self) -> None:
        restarts = RestartLimit()
        loop = asyncio.get_running_loop()
        while True:
            try:
                code = await self._ended()
            except asyncio.CancelledError:
                self._signal(signal.SIGTERM)  # the app's loop ends without `stop`
                raise
            if self._stop.is_set():
                return
            said = self.output.lines_since(self._log_start)
            if not self.settled or code in (0, ExitCode.CONFIG):
                raise ChildEndedError(self.name, code, said)
            if restarts.reached(loop.time()):
                why = f", {MAX_RESTARTS + 1} times within {RESTART_WINDOW:g} s"
                raise ChildEndedError(self.name, code, said, why)
            restarts.add(loop.time())
            log.warning("%s %s: restarting it", self.name, _how(code))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), RESTART_SECONDS)
            if self._stop.is_set():
                return
            self.restarts += 1
            self._start()

    def _start(self) -> None:
        self.output.rotate()
        self._log_start = self.output.size()
        output = self.output.open()
        try:
            self._process = subprocess.Popen(
                self._program.command,
                env=self._environment,
                stdin=self._pipe.reading,
                stdout=output,
                stderr=output,
                process_group=0,  # Ctrl-C in the terminal is for the app, which stops us gracefully
            )
        finally:
            os.close(output)

    async def _ended(self) -> int:
        """Wait for the process. Return its exit code, negative for a signal."""
        assert self._process is not None
        if not hasattr(os, "pidfd_open"):
            while self._process.poll() is None:  # noqa: ASYNC110 - the system reports it in no other way
                await asyncio.sleep(_POLL)
            return self._process.wait()
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        descriptor = os.pidfd_open(self._process.pid)
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return self._process.wait()

    async def stop(self) -> None:
        """Send TERM, then KILL. Idempotent, even if it never ran. Cancelling it kills at once."""
        self._stop.set()
        try:
            self._signal(signal.SIGTERM)
            if self._task is not None:
                await asyncio.wait({self._task}, timeout=STOP_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        self._stop.set()
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()  # KILL cannot be ignored
        if self._task is not None:
            self._task.cancel()

    def _signal(self, number: int) -> None:
        # Popen knows whether it has reaped the child, so this never hits a reused pid.
        if self._process is not None:
            self._process.send_signal(number)
