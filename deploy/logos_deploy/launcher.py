"""A node for one app, without a supervisor: `launch` starts kernel and Messaging API as child processes, and
they end with the app, whatever ends it.

    async with launch(preset="logos.test", name="weather") as node:
        await node.client.subscribe("/weather/1/berlin/json")
        async for event in node.client:
            print(event)

The blocking form is `logos_deploy.blocking.launch`.

A process that dies is started again, and the clients reconnect by themselves (`LinkLost`, `LinkRestored`);
after five deaths in half a minute the node is given up, which `Node.wait` tells. What the processes say is in
`<data dir>/logs/kernel.log` and `mapi.log`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ipc_schema.config.mapi import Mode
from ipc_schema.config.options import ConfigError
from logos_client import KernelClient, MessagingClient, Opening
from logos_client._connection import DEFAULT_TIMEOUT
from logos_client.messaging import AckMode
from logos_deploy.launcher_node import (
    DataDirInUseError,
    LaunchError,
    NodeFacts,
    NodeProcesses,
)
from logos_deploy.launcher_plan import plan_launch

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
    name: str | None = None,
    ack: AckMode = "auto",
    timeout: float = START_SECONDS,
) -> Opening[Node]:
    """Start a node and connect to it: `await` it, or enter it as a context, which stops it at the end.

    `preset`: the network; without one a local network on loopback. `mode`: `core` or `edge`. `overrides`:
    options of kernel and Messaging API by name (`{"tcp-port": 0}`); the environment is not looked at.
    `data_dir`: what must survive a restart, `./data` unless given here or as an override; one node at a time
    uses it, and one that is just ending, since its app was killed, is waited for. `name`: makes the client
    durable, `ack`: see `MessagingClient.connect`. `timeout`: seconds until both processes must be ready.

    Raises `ConfigError` naming the key, `DataDirInUseError`, `LaunchError`, and what
    `MessagingClient.connect` raises. Nothing runs then.
    """

    async def start() -> Node:
        plan = plan_launch(preset, mode, overrides or {}, data_dir)
        processes = NodeProcesses(plan)
        await processes.start(timeout)
        try:
            client = await MessagingClient.connect(plan.mapi.endpoints.apps, name=name, ack=ack)
        except BaseException:
            await processes.close()
            raise
        return Node(processes, client)

    return Opening(start)


class Node(NodeFacts):
    """A node that runs for this app, with a client that is connected to it. Made by `launch`.

    In a child that the app forks, `close` does nothing and the clients are refused.
    """

    def __init__(self, processes: NodeProcesses, client: MessagingClient) -> None:
        """Not for apps: see `launch`."""
        self._processes = processes
        self._client = client
        self._kernel: KernelClient | None = None
        self._opening = asyncio.Lock()

    @property
    def client(self) -> MessagingClient:
        """The app's client."""
        return self._client

    async def kernel(self, *, timeout: float = DEFAULT_TIMEOUT) -> KernelClient:
        """A client of the node's kernel: peers, health, metrics. The same one at each call; it is closed with
        the node. Raises as `KernelClient.connect` does."""
        async with self._opening:
            if self._kernel is None:
                endpoints = self._processes.plan.kernel.endpoints
                self._kernel = await KernelClient.connect(endpoints, timeout=timeout)
            return self._kernel

    async def wait(self) -> None:
        """Wait until the node is closed. Raises `LaunchError` when one of its processes is gone for good:
        given up, or asked to end by somebody else."""
        await self._processes.wait()

    async def close(self) -> None:
        """Close the clients, then end both processes in good order. May be called again."""
        try:
            await self._client.close()
            if self._kernel is not None:
                await self._kernel.close()
        finally:
            await self._processes.close()

    async def __aenter__(self) -> Node:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
