"""A node for one app, without a supervisor.

`launch` starts kernel and Messaging API as child processes that exit with the app, however it ends.

    async with launch(preset="logos.test", name="weather") as node:
        await node.client.subscribe("/weather/1/berlin/json")
        async for event in node.client:
            print(event)

The blocking form is `logos_deploy.blocking.launch`.

A process that dies is restarted, and the clients reconnect by themselves (`LinkLost`, `LinkRestored`); after
five deaths in half a minute the node is given up, which `Node.wait` reports. The processes' output is in
`<data dir>/logs/kernel.log` and `mapi.log`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

from ipc_schema.config.mapi import Mode
from ipc_schema.config.options import ConfigError
from logos_client import KernelClient, MessagingClient, Opening
from logos_client.messaging import AckMode
from logos_client.transport import DEFAULT_TIMEOUT
from logos_deploy.launcher_node import (
    DataDirInUseError,
    LaunchError,
    LaunchFacts,
    NodeProcesses,
)
from logos_deploy.node.plan import LaunchRequest, NodePlan, plan_launch
from logos_process.config_file import read_toml

__all__ = [
    "ConfigError",
    "DataDirInUseError",
    "LaunchError",
    "Mode",
    "Node",
    "launch",
]

START_SECONDS: Final = 30.0


def launch(
    preset: str = "",
    mode: Mode | str = Mode.CORE,
    overrides: Mapping[str, object] | None = None,
    *,
    data_dir: str | Path | None = None,
    config_file: str | Path | None = None,
    name: str | None = None,
    ack: AckMode = "auto",
    timeout: float = START_SECONDS,
) -> Opening[Node]:
    """Start a node and connect to it: `await` it, or enter it as a context, which stops it at the end.

    `preset`: the network; without one a local network on loopback. `mode`: `core` or `edge`. `overrides`:
    options of kernel and Messaging API by name (`{"tcp-port": 0}`), `kernel.<name>` or `mapi.<name>` for
    one of them. `config_file`: TOML with `[kernel]` and `[mapi]`, as for `logos up`; the environment is
    ignored. `data_dir`: what must survive a restart, `./data` unless given here or as an override; only one
    node at a time may use it, and one that is just ending because its app was killed is waited for. `name`:
    makes the client durable, `ack`: see `MessagingClient.connect`. `timeout`: seconds until both processes
    must be ready.

    Raises `ConfigError` naming the key, `DataDirInUseError`, `LaunchError`, and whatever
    `MessagingClient.connect` raises. Nothing is left running then.
    """
    request = LaunchRequest(
        preset=preset, mode=mode, overrides=overrides or {}, data_dir=data_dir, config_file=config_file
    )

    async def start() -> Node:
        node = Node(plan_launch(request, read_toml, Path.cwd()), name, ack)
        await node.start(timeout=timeout)
        return node

    return Opening(start)


class Node(LaunchFacts):
    """A node that runs for this app, with a connected client. Created by `launch`.

    Once closed it can be started again on the same data directory; it then has a new client. In a forked
    child, `close` does nothing and the clients raise `ForkedError`.
    """

    def __init__(self, plan: NodePlan, name: str | None, ack: AckMode) -> None:
        """Internal: use `launch`."""
        self._processes = NodeProcesses(plan)
        self._name = name
        self._ack: AckMode = ack
        self._client: MessagingClient | None = None
        self._kernel: KernelClient | None = None
        self._open = False
        self._opening = asyncio.Lock()

    async def start(self, *, timeout: float = START_SECONDS) -> None:
        """Start a closed node again. Raises like `launch`, and RuntimeError if it is running."""
        if self._open:
            raise RuntimeError("the node is already running")
        processes = self._processes = NodeProcesses(self._processes.plan)
        await processes.start(timeout)
        try:
            endpoint = processes.mapi.endpoints.apps
            self._client = await MessagingClient.connect(endpoint, name=self._name, ack=self._ack)
        except BaseException:
            await processes.close()
            raise
        self._open = True

    @property
    def client(self) -> MessagingClient:
        """The app's client."""
        assert self._client is not None, "made by launch, which starts it"
        return self._client

    async def kernel(self, *, timeout: float = DEFAULT_TIMEOUT) -> KernelClient:
        """A client of the node's kernel (peers, health, metrics), the same one at each call; closed with the
        node.

        Raises like `KernelClient.connect`.
        """
        async with self._opening:
            if self._kernel is None:
                endpoints = self._processes.plan.kernel.endpoints
                self._kernel = await KernelClient.connect(endpoints, timeout=timeout)
            return self._kernel

    async def wait(self) -> None:
        """Wait until the node is closed.

        Raises `LaunchError` if one of its processes is gone for good: given up, or stopped from outside.
        """
        await self._processes.wait()

    async def close(self) -> None:
        """Close the clients, then stop both processes gracefully. Idempotent."""
        kernel, self._kernel = self._kernel, None
        try:
            if self._client is not None:
                await self._client.close()
            if kernel is not None:
                await kernel.close()
        finally:
            await self._processes.close()
            self._open = False

    async def __aenter__(self) -> Node:
        if not self._open:
            await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._client is not None:
                await self._client.__aexit__(kind, error, trace)
        finally:
            await self.close()
