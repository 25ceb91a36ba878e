"""A node of the demonstration: supervised like any other, with a record of every process it ever had."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ipc_schema.control import ControlHealthReply
from ipc_schema.paths import run_directory
from logos_client.kernel import KernelClient
from logos_deploy.control import gateway_addresses, wait_ready
from logos_deploy.demo.app import DemoError
from logos_deploy.node.follow import tail
from logos_deploy.node.handles import ProcessHandle
from logos_deploy.node.plan import NodeRequest, plan_node
from logos_deploy.node.processes import without_own_variables
from logos_deploy.node.supervisor import Supervisor
from logos_process.config_file import read_toml

_READY: Final = 30.0
_TAIL: Final = 40


def free_ports(count: int) -> list[int]:
    """Find free TCP ports on loopback. All are held until all are found."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


class DemoNode:
    """A kernel and a Messaging API under a supervisord of their own."""

    def __init__(
        self,
        name: str,
        data_dir: Path,
        port: int,
        peers: Iterable[str] = (),
        *,
        http_port: int | None = None,
    ) -> None:
        """`http_port`: where its gateway serves; None: it has none."""
        self.name = name
        self.run_dir = run_directory(data_dir)
        environ = without_own_variables(os.environ)
        request = NodeRequest(
            data_dir=str(data_dir),
            # A fixed port, so that the others find the kernel again after it was killed.
            overrides=[
                f"tcp-port={port}",
                *(f"staticnode={address}" for address in peers),
                *(() if http_port is None else ("gateway.rest=true", f"gateway.rest-port={http_port}")),
            ],
        )
        self._supervisor = Supervisor(plan_node(request, environ, read_toml, data_dir), environ)
        plan = self._supervisor.plan
        assert plan.mapi is not None
        self._controls = {"kernel": plan.kernel.endpoints.control, "MAPI": plan.mapi.endpoints.control}
        self._seen: dict[int, ProcessHandle] = {}
        self._pids: dict[str, int] = {}

    async def start(self) -> None:
        """Start both processes; they are not ready yet."""
        await self._supervisor.start()
        self._see(self._supervisor.pid)

    async def ready(self) -> dict[str, ControlHealthReply]:
        """Wait until both are ready. Raises `DemoError`."""
        return {what: await self._ready(what) for what in self._controls}

    async def _ready(self, what: str, not_pid: int | None = None) -> ControlHealthReply:
        try:
            async with asyncio.timeout(_READY):
                health = await wait_ready(self._controls[what], not_pid=not_pid)
        except TimeoutError:
            raise DemoError(f"the {what} of node {self.name} is not ready within {_READY:g} s") from None
        self._see(health.pid)
        self._pids[what] = health.pid
        return health

    def _see(self, pid: int) -> None:
        if pid not in self._seen:
            try:
                self._seen[pid] = ProcessHandle(pid)
            except ProcessLookupError:
                raise DemoError(f"process {pid} of node {self.name} ended at once") from None

    async def address(self) -> str:
        """Return the kernel's listening address, with its peer id."""
        async with KernelClient.connect(self.run_dir) as client:
            addresses = (await client.info(["MyMultiaddresses"]))["MyMultiaddresses"]
        if not isinstance(addresses, list | tuple) or not addresses:
            raise DemoError(f"the kernel of node {self.name} listens nowhere")
        return str(addresses[0])

    async def http_url(self) -> str:
        """Return the URL of its gateway once that listens. Raises `DemoError`."""
        try:
            async with asyncio.timeout(_READY):
                while (found := gateway_addresses(self.run_dir)) is None:  # noqa: ASYNC110 - a file has no event
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise DemoError(f"the gateway of node {self.name} does not listen") from None
        pid, urls = found
        self._see(pid)
        return urls["rest"]

    def kill(self, what: str) -> int:
        """kill -9 the kernel or the MAPI, by the process id in its health. Return that id."""
        pid = self._pids[what]
        if not self._seen[pid].kill():
            raise DemoError(f"the {what} of node {self.name} (process {pid}) was gone before it was killed")
        return pid

    async def back(self, what: str, killed: int) -> ControlHealthReply:
        """Wait until supervisord has restarted it and it is ready."""
        return await self._ready(what, killed)

    async def stop(self) -> None:
        await self._supervisor.stop()

    def left_running(self) -> list[int]:
        """Return the processes that this node ever had and that still run."""
        return sorted(pid for pid, handle in self._seen.items() if handle.alive())

    def logs(self) -> str:
        paths = self._supervisor.paths
        parts = []
        for path in (paths.log, paths.log_of("kernel"), paths.log_of("mapi")):
            if lines := tail(path, _TAIL):
                parts += [f"--- node {self.name}, {path.name}", *lines]
        return "\n".join(parts)

    def close(self) -> None:
        """Release the process handles."""
        for handle in self._seen.values():
            handle.close()
