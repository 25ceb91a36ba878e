"""The two processes of a launched node: start, wait, keep, stop.

The clients are a layer above (`launcher`, `blocking`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ipc_schema.config.kernel import KERNEL_SCHEMA
from ipc_schema.config.mapi import MAPI_SCHEMA, MapiConfig
from ipc_schema.config.options import ConfigError
from ipc_schema.paths import kernel_directory, lock_path, mapi_directory
from logos_client.transport import HomeProcess
from logos_deploy.control import wait_ready
from logos_deploy.launcher_child import ChildEndedError, Keeper
from logos_deploy.launcher_logs import LogFile
from logos_deploy.node.host_checks import check_host
from logos_deploy.node.plan import NodePlan
from logos_deploy.node.ports import refuse_taken_ports
from logos_deploy.node.programs import launch_programs
from logos_process.directories import private_directory
from logos_process.lock import holder_of
from logos_process.parent_watch import ParentPipe

log = logging.getLogger(__name__)

_ROTATE_SECONDS: Final = 60.0
RELEASE_SECONDS = 8.0
"""How long a node whose app has died may still hold the data directory while it ends."""
_POLL: Final = 0.05


class LaunchError(Exception):
    """The node cannot run, or does not run any more.

    `process`: `kernel` or `mapi`, if one is at fault; `log`: its log file; `output`: its last lines there.
    """

    def __init__(
        self, message: str, *, process: str = "", log: Path | None = None, output: list[str] | None = None
    ) -> None:
        super().__init__(message)
        self.process = process
        self.log = log
        self.output: list[str] = output or []


class DataDirInUseError(LaunchError):
    """Another node runs on this data directory."""


class NodeProcesses:
    """Kernel and Messaging API of one node, on the running loop.

    Nothing is left running after `close`, nor after a `start` that raised.
    """

    def __init__(self, plan: NodePlan) -> None:
        self.plan = plan
        self.home: HomeProcess = HomeProcess()
        assert plan.mapi is not None
        self.mapi: MapiConfig = plan.mapi
        self._programs = launch_programs(plan)
        logs = plan.data_dir / "logs"
        self.logs: dict[str, Path] = {
            program.name: logs / f"{program.name}.log" for program in self._programs
        }
        self._pipe: ParentPipe | None = None
        self.keepers: list[Keeper] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._rotation: asyncio.Task[None] | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # -- start -----------------------------------------------------------------------------------------------

    async def start(self, timeout: float) -> None:
        """Start both and wait until they are ready. Raises `LaunchError`, `ConfigError`, OSError."""
        check_host(self.plan)
        await self._wait_free()
        refuse_taken_ports(self.plan.ports)
        for directory in (self.plan.data_dir, self.plan.data_dir / "logs"):
            private_directory(directory)
        self._pipe = ParentPipe()
        try:
            for program in self._programs:
                log = LogFile(self.logs[program.name])
                self.keepers.append(Keeper(program, os.environ, self._pipe, log))
                self._tasks.append(self.keepers[-1].keep())
            await self._wait_ready(timeout)
        except BaseException:
            await self.close()
            raise
        for keeper, task in zip(self.keepers, self._tasks, strict=True):
            keeper.settled = True
            task.add_done_callback(self._ended)
        self._rotation = asyncio.get_running_loop().create_task(self._rotate(), name="log rotation")

    async def _wait_free(self) -> None:
        """Wait for a node that is ending because its app was killed; refuse one that runs."""
        deadline = asyncio.get_running_loop().time() + RELEASE_SECONDS
        directories = {
            "kernel": kernel_directory(self.plan.kernel.ipc_dir),
            "Messaging API": mapi_directory(self.mapi.ipc_dir),
        }
        for what, directory in directories.items():
            while (holder := holder_of(lock_path(directory))) is not None:
                if asyncio.get_running_loop().time() >= deadline:
                    by = f", process {holder}" if holder else ""
                    raise DataDirInUseError(f"{self.plan.data_dir} is in use by a {what}{by}")
                await asyncio.sleep(_POLL)

    async def _wait_ready(self, timeout: float) -> None:
        controls = (self.plan.kernel.endpoints.control, self.mapi.endpoints.control)
        waits = [
            asyncio.create_task(wait_ready(control, pid=keeper.pid))
            for control, keeper in zip(controls, self.keepers, strict=True)
        ]
        ready = asyncio.gather(*waits)
        try:
            watched: set[asyncio.Future[Any]] = {ready, *self._tasks}
            await asyncio.wait(watched, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in self._tasks:
                if task.done():
                    self._raise_for(task)
            if not ready.done():
                late = [k for k, wait in zip(self.keepers, waits, strict=True) if not wait.done()]
                name = late[0].name
                output = late[0].output.lines_since(0)
                raise LaunchError(
                    f"{' and '.join(keeper.name for keeper in late)} not ready within {timeout:g} s"
                    + (f"; last in {self.logs[name]}: {output[-1]}" if output else ""),
                    process=name,
                    log=self.logs[name],
                    output=output,
                )
            ready.result()
        finally:
            ready.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ready

    def _raise_for(self, task: asyncio.Task[None]) -> None:
        try:
            task.result()
        except ChildEndedError as error:
            if error.refused and error.said and (refused := config_error_of(error.said[-1])) is not None:
                raise refused from None
            raise self._failure(error) from None

    def _failure(self, error: ChildEndedError) -> LaunchError:
        return LaunchError(str(error), process=error.name, log=self.logs[error.name], output=error.said)

    # -- while it runs ---------------------------------------------------------------------------------------

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._over.done() or task.cancelled():
            return
        error = task.exception()
        if isinstance(error, ChildEndedError):
            log.log(logging.ERROR if error.code else logging.INFO, "the node is given up: %s", error)
            self._over.set_exception(self._failure(error))
        elif error is not None:
            self._over.set_exception(error)

    async def wait(self) -> None:
        """Return when the node was closed; raise `LaunchError` if a process is gone for good."""
        await asyncio.shield(self._over)

    async def _rotate(self) -> None:
        while True:
            await asyncio.sleep(_ROTATE_SECONDS)
            for keeper in self.keepers:
                await asyncio.to_thread(keeper.output.rotate)

    # -- stop ------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop both gracefully, MAPI first, so that it says goodbye to the kernel.

        Idempotent; a no-op in a forked child.
        """
        if self.home.left:
            return
        if self._rotation is not None:
            self._rotation.cancel()
        try:
            for keeper in reversed(self.keepers):
                await keeper.stop()
        except BaseException:
            for keeper in self.keepers:
                keeper.kill()
            raise
        finally:
            if self._pipe is not None:
                self._pipe.cut()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if not self._over.done():
                self._over.set_result(None)
            elif not self._over.cancelled():
                self._over.exception()  # requested by someone else, or not


class LaunchFacts:
    """What there is to know of a launched node, the same in its asyncio and blocking forms."""

    _processes: NodeProcesses

    @property
    def data_dir(self) -> Path:
        """The node's data directory."""
        return self._processes.plan.data_dir

    @property
    def run_dir(self) -> Path:
        """Directory of its sockets: other programs of the same user connect there."""
        return Path(self._processes.mapi.ipc_dir)

    @property
    def logs(self) -> Mapping[str, Path]:
        """The log files of `kernel` and `mapi`."""
        return dict(self._processes.logs)

    @property
    def pids(self) -> Mapping[str, int | None]:
        """Process ids of `kernel` and `mapi`; None while one is being restarted."""
        return {keeper.name: keeper.pid for keeper in self._processes.keepers}

    @property
    def restarts(self) -> Mapping[str, int]:
        """Number of restarts of each process."""
        return {keeper.name: keeper.restarts for keeper in self._processes.keepers}


def config_error_of(said: str) -> ConfigError | None:
    """Return the `ConfigError` in a process's last line, or None."""
    for program in ("logos-kernel: ", "logos-mapi: "):
        if said.startswith(program):
            key, colon, text = said.removeprefix(program).partition(": ")
            if colon and (key in KERNEL_SCHEMA or key in MAPI_SCHEMA):
                return ConfigError(key, text)
    return None
