"""The blocking form of `logos_client.ControlClient`.

with ControlClient.connect(kernel_endpoints(run_dir).control) as control:
    print(control.health().state)
"""

from __future__ import annotations

from typing import Self

import zmq

from ipc_schema.control import ControlHealthReply
from logos_client import control
from logos_client.blocking._base import BlockingClient, open_client
from logos_client.blocking._portal import Portal

__all__ = ["ControlClient"]

_TIMEOUT = 5.0


class ControlClient(BlockingClient):
    """Control of one process. Made by `connect`."""

    def __init__(self, portal: Portal, client: control.ControlClient) -> None:
        """Not for apps: see `connect`."""
        super().__init__(portal)
        self._client = client

    def __repr__(self) -> str:
        return f"<blocking.{repr(self._client)[1:]}"

    @classmethod
    def connect(
        cls,
        endpoint: str,
        *,
        timeout: float | None = _TIMEOUT,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> Self:
        """Connect. Raises `NotReadyError` when nobody is there within `timeout`."""

        async def open_control() -> control.ControlClient:
            return await control.ControlClient.connect(endpoint, timeout=timeout, context=context)

        return cls(*open_client("control", open_control))

    def health(self, *, timeout: float = _TIMEOUT) -> ControlHealthReply:
        """Whether the process is ready, its state, version, pid and uptime."""
        return self._portal.call(self._client.health, timeout=timeout)

    def health_details(self, *, timeout: float = _TIMEOUT) -> dict[str, object]:
        """All that the process says of its health, its own keys too."""
        return self._portal.call(self._client.health_details, timeout=timeout)

    def shutdown(self, *, timeout: float = _TIMEOUT) -> None:
        """Ask the process to end; it does so after the answer."""
        self._portal.call(self._client.shutdown, timeout=timeout)

    def set_log_level(self, level: str, logger: str | None = None, *, timeout: float = _TIMEOUT) -> str:
        """Change the log level, of one logger or of all, and return what it was."""
        return self._portal.call(self._client.set_log_level, level, logger, timeout=timeout)
