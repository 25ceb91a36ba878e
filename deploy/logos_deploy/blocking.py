"""The launcher in blocking form, for scripts and for programs with threads.

    with launch(preset="logos.test", name="weather") as node:
        node.client.subscribe("/weather/1/berlin/json")
        for event in node.client:
            print(event)

Everything is as in `logos_deploy.launcher`; threads, forks, Ctrl-C and the end of the program are as in
`logos_client.blocking`. If a program ends without closing its node, the node is stopped then.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from ipc_schema.config.mapi import Mode
from logos_client.blocking import KernelClient, MessagingClient
from logos_client.exceptions import ClosedError, ForkedError
from logos_client.messaging import AckMode
from logos_client.transport import DEFAULT_TIMEOUT, BlockingClient, open_client
from logos_deploy.launcher import START_SECONDS
from logos_deploy.launcher_node import LaunchFacts, NodeProcesses
from logos_deploy.node.plan import LaunchRequest, NodePlan, plan_launch
from logos_process.config_file import read_toml


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
) -> Node:
    """Start a node and connect to it; see `logos_deploy.launcher.launch`."""
    request = LaunchRequest(
        preset=preset, mode=mode, overrides=overrides or {}, data_dir=data_dir, config_file=config_file
    )
    return Node(plan_launch(request, read_toml, Path.cwd()), name, ack, timeout)


class Node(LaunchFacts, BlockingClient):
    """A node that runs for this app, with a connected client. Created by `launch`.

    Once closed it can be started again on the same data directory; it then has a new client. In a forked
    child, `close` does nothing and the clients raise `ForkedError`.
    """

    def __init__(self, plan: NodePlan, name: str | None, ack: AckMode, timeout: float) -> None:
        """Internal: use `launch`."""
        self._plan = plan
        self._name = name
        self._ack: AckMode = ack
        self._opening = threading.Lock()
        self._start(timeout)

    def start(self, *, timeout: float = START_SECONDS) -> None:
        """Start a closed node again. Raises like `launch`, and RuntimeError if it is running."""
        self._portal.home.check()
        with self._opening:
            if self._portal.open:
                raise RuntimeError("the node is already running")
            self._start(timeout)

    def _start(self, timeout: float) -> None:
        async def start() -> NodeProcesses:
            processes = NodeProcesses(self._plan)
            await processes.start(timeout)
            return processes

        portal, processes = open_client("node", start)
        try:
            endpoint = processes.mapi.endpoints.apps
            client = MessagingClient.connect(endpoint, name=self._name, ack=self._ack)
        except BaseException:
            portal.close()
            raise
        super().__init__(portal)
        self._processes = processes
        self._client = client
        self._kernel: KernelClient | None = None

    @property
    def client(self) -> MessagingClient:
        """The app's client."""
        return self._client

    def kernel(self, *, timeout: float = DEFAULT_TIMEOUT) -> KernelClient:
        """A client of the node's kernel (peers, health, metrics), the same one at each call; closed with the
        node.

        Raises like `KernelClient.connect`.
        """
        self._portal.check()
        with self._opening:
            if self._kernel is None:
                endpoints = self._processes.plan.kernel.endpoints
                self._kernel = KernelClient.connect(endpoints, timeout=timeout)
            return self._kernel

    def wait(self) -> None:
        """Wait until the node is closed, by another thread.

        Raises `LaunchError` if one of its processes is gone for good: given up, or stopped from outside.
        """
        try:
            self._portal.call(self._processes.wait)
        except ForkedError:
            raise
        except ClosedError:
            return  # closed: what we waited for

    def close(self) -> None:
        """Close the clients, then stop both processes gracefully. Idempotent, from any thread."""
        try:
            self._client.close()
            if self._kernel is not None:
                self._kernel.close()
        finally:
            super().close()

    def __enter__(self) -> Self:
        if not self._portal.open:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._client.__exit__(kind, error, trace)
        finally:
            self.close()
