"""One running supervisord, owned by this process: started, watched, stopped with everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import resource
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ipc_schema.paths import kernel_directory, lock_path, mapi_directory
from logos_deploy.node.conf import SupervisorPaths, render, supervisor_paths
from logos_deploy.node.handles import ProcessHandle
from logos_deploy.node.plan import NodePlan
from logos_deploy.node.ports import refuse_taken_ports
from logos_deploy.node.programs import STOP_SECONDS, Program, programs_of
from logos_deploy.node.rpc import ProcessState, RpcError, SupervisorRpc
from logos_process.directories import private_directory
from logos_process.lock import FileLock, LockedError, holder_of
from logos_process.parent_watch import PARENT, ParentPipe

_START_TIMEOUT: Final = 20.0
_POLL: Final = 0.05
_SPARE_FDS: Final = 1024
# connections, timers and the database: no descriptor per stream, but with a margin
_FDS_PER_CONNECTION: Final = 4
_MIN_FDS: Final = 8192
_RELEASE_PATIENCE: Final = 2.0
_LAST_LOOK: Final = 0.5


class SupervisorError(Exception):
    """supervisord could not be started; the text gives its reason, if it gave one."""


class NodeInUseError(Exception):
    """A running node uses the data directory."""


class Supervisor:
    """supervisord with the processes of one node.

        supervisor = Supervisor(plan, os.environ)
        await supervisor.start()
        …
        await supervisor.stop()

    After `stop`, and after a `start` that raised, nothing that it started is left running.
    """

    def __init__(self, plan: NodePlan, environ: Mapping[str, str]) -> None:
        """`environ` is the processes' environment, from which the plan was made.

        Raises `ConfigError` if supervisord's file cannot hold the paths.
        """
        self.plan = plan
        self._environ = environ
        ipc_dir = Path(os.path.abspath(plan.kernel.ipc_dir))  # noqa: PTH100 - no symlink may be resolved
        configured = ipc_dir if plan.kernel.resolved.explicit("ipc-dir") else None
        self.paths: SupervisorPaths = supervisor_paths(plan.data_dir, configured)
        self.programs: Sequence[Program] = programs_of(plan)
        self._password = secrets.token_hex(16)
        self._conf = render(
            self.paths,
            self.programs,
            min_fds=file_descriptors(plan.kernel.peers.max_connections),
            user=_user(),
            password=self._password,
        )
        self._rpc = SupervisorRpc(self.paths.socket, self._password)
        self._lock: FileLock | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._children: dict[int, ProcessHandle] = {}
        self._pipe: ParentPipe | None = None

    # -- start -----------------------------------------------------------------------------------------------

    def write_only(self) -> tuple[str, ...]:
        """Write the file for a supervisord that is started elsewhere. Return its command.

        Raises `NodeInUseError`, or OSError for an unusable directory.
        """
        self._refuse_running()
        self._take_directories()
        try:
            self._write_conf()
        finally:
            self._unlock()
        return self._command()

    async def start(self) -> None:
        """Start supervisord, and through it the processes. Returns when it answers; they may not be ready.

        Raises `NodeInUseError`, `PortInUseError`, `ConfigError` for an address that cannot be bound,
        `SupervisorError`, or OSError for an unusable directory.
        """
        self._refuse_running()
        refuse_taken_ports(self.plan.ports)
        self._take_directories()
        try:
            self._write_conf()
            await self._spawn()
            await self._wait_answer()
        except BaseException:
            await self.stop()
            raise

    def _take_directories(self) -> None:
        private_directory(self.paths.directory)
        private_directory(self.paths.socket.parent)
        try:
            self._lock = FileLock.acquire(self.paths.lock, f"the data directory {self.plan.data_dir}")
        except LockedError as error:
            raise NodeInUseError(f"{self._has_a_node(error.pid)}: one node at a time") from None

    def _refuse_running(self) -> None:
        """Refuse before anything is created or bound, so that the error is this one and not a port in use.

        A node that was not started by this command owns its directories too.
        """
        locks = {"": self.paths.lock, "its kernel is ": lock_path(kernel_directory(self.plan.kernel.ipc_dir))}
        if self.plan.mapi is not None:
            locks["its MAPI is "] = lock_path(mapi_directory(self.plan.mapi.ipc_dir))
        for which, lock in locks.items():
            # a node whose `logos up` was killed may still be ending
            holder = holder_of(lock, _RELEASE_PATIENCE if which else 0.0)
            if holder is not None:
                raise NodeInUseError(f"{self._has_a_node(holder, which)}: one node at a time")

    def _has_a_node(self, pid: int, which: str = "") -> str:
        by = f" ({which}process {pid})" if pid else ""
        return f"the data directory {self.plan.data_dir} is in use by a running node{by}"

    def _write_conf(self) -> None:
        self.paths.conf.unlink(missing_ok=True)
        descriptor = os.open(self.paths.conf, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(self._conf)

    async def _spawn(self) -> None:
        self._pipe = ParentPipe()
        descriptor = os.open(self.paths.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command("logos_process.parent_watch"),
                stdin=self._pipe.reading,
                stdout=descriptor,
                stderr=descriptor,
                env={**self._environ, PARENT: "0"},
                umask=0o077,
                # Ctrl-C is for us alone: we stop supervisord ourselves
                start_new_session=True,
            )
        finally:
            os.close(descriptor)

    def _command(self, *runner: str) -> tuple[str, ...]:
        # as a module: the script may be installed elsewhere, or not at all
        return (sys.executable, "-P", "-m", *runner, "supervisor.supervisord", "-c", str(self.paths.conf))

    async def _wait_answer(self) -> None:
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                while True:
                    if self.ended:
                        raise SupervisorError(f"supervisord did not start: {self._complaint()}")
                    with contextlib.suppress(RpcError):
                        await self.processes()
                        return
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise SupervisorError(
                f"supervisord did not answer within {_START_TIMEOUT:g} s: {self._complaint()}"
            ) from None

    def _complaint(self) -> str:
        lines = self.paths.output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        wanted = [line for line in lines if line.startswith("Error")] or lines[-3:]
        return " ".join(wanted) or f"it said nothing (see {self.paths.log})"

    # -- while it runs ---------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """supervisord's process id."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether supervisord has ended."""
        return self._process is not None and self._process.returncode is not None

    @property
    def ended_in_order(self) -> bool:
        """Whether supervisord has ended because it was asked to (`logos down` from another container)."""
        return self._process is not None and self._process.returncode == 0

    async def wait(self) -> None:
        """Wait until supervisord ends."""
        assert self._process is not None, "not started"
        await self._process.wait()

    async def processes(self) -> list[ProcessState]:
        """Return the processes as supervisord sees them. Raises `RpcError`."""
        states = await self._rpc.processes()
        self._remember({state.pid for state in states if state.pid})
        return states

    def _remember(self, pids: set[int]) -> None:
        """Keep handles of the children: if supervisord is killed, stopping them is up to us."""
        for pid in self._children.keys() - pids:
            if not self._children[pid].alive():
                self._children.pop(pid).close()
        for pid in pids - self._children.keys():
            with contextlib.suppress(ProcessLookupError):
                self._children[pid] = ProcessHandle(pid)

    # -- stop ------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Stop supervisord and everything it started, gracefully if possible. Idempotent.

        Cancelling it does not interrupt it: it then kills everything at once.
        """
        try:
            await self._look_again()
            if self._process is not None and not self.ended:
                self._signal(signal.SIGTERM)
                # sequentially, each with its full timeout
                patience = (len(self.programs) + 1) * STOP_SECONDS
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.wait(), patience)
            await self._end_orphans(signal.SIGTERM, STOP_SECONDS)
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_LOOK):  # a supervisord that hangs is killed all the same
                    await self._look_again()
            self._signal(signal.SIGKILL)
            if self._process is not None:
                await asyncio.shield(self._process.wait())
            await self._end_orphans(signal.SIGKILL, STOP_SECONDS)
            for child in self._children.values():
                child.close()
            self._children.clear()
            if self._pipe is not None:
                self._pipe.cut()
            self._unlock()

    async def _look_again(self) -> None:
        """Get hold of what supervisord has started since the last look, if it still answers."""
        if self._process is not None and not self.ended:
            with contextlib.suppress(RpcError):
                await self.processes()

    async def _end_orphans(self, number: int, patience: float) -> None:
        """Stop children that outlived their supervisord."""
        for child in self._children.values():
            with contextlib.suppress(ProcessLookupError):
                child.signal(number)
        deadline = asyncio.get_running_loop().time() + patience
        while any(child.alive() for child in self._children.values()):
            if asyncio.get_running_loop().time() >= deadline:
                return
            await asyncio.sleep(_POLL)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def file_descriptors(max_connections: int) -> int:
    """Return the limit of open files for a node, as far as this host allows it."""
    wanted = wanted_descriptors(max_connections)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def wanted_descriptors(max_connections: int) -> int:
    """Return the open files that a node with so many connections may need."""
    return max(_MIN_FDS, max_connections * _FDS_PER_CONNECTION + _SPARE_FDS)


def _user() -> str | None:
    """Return the user option: supervisord warns when root does not set it explicitly."""
    return pwd.getpwuid(0).pw_name if os.geteuid() == 0 else None
