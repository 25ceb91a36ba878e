"""The blocking form of `logos_client.ControlClient`.

with ControlClient.connect(kernel_endpoints(run_dir).control) as control:
    print(control.health().state)
"""

from __future__ import annotations

from typing import Self

import zmq

from logos_client import control
from logos_client.blocking._base import open_client
from logos_client.blocking._control_calls import ControlCalls
from logos_client.blocking._portal import Portal
from logos_client.control import CONTROL_TIMEOUT

__all__ = ["ControlClient"]


class ControlClient(ControlCalls):
    """Control of one process. Created by `connect`."""

    def __init__(self, portal: Portal, client: control.ControlClient) -> None:
        """Internal: use `connect`."""
        super().__init__(portal)
        self._client = client

    def __repr__(self) -> str:
        return f"<blocking.{repr(self._client)[1:]}"

    @classmethod
    def connect(
        cls,
        endpoint: str,
        *,
        timeout: float | None = CONTROL_TIMEOUT,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> Self:
        """Connect. Raises `NotReadyError` if there is no server within `timeout`."""

        async def open_control() -> control.ControlClient:
            return await control.ControlClient.connect(endpoint, timeout=timeout, context=context)

        return cls(*open_client("control", open_control))
