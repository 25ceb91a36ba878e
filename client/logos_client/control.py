"""The control socket of a kernel or a Messaging API: health, shutdown, log level.

It needs no hello and never waits behind queued work, so its answer shows whether the process is alive.

    async with ControlClient.connect(kernel_endpoints(run_dir).control) as control:
        print((await control.health()).state)
"""

from __future__ import annotations

from typing import Final, Self

import zmq

from ipc_schema import control as methods
from ipc_schema.control import ControlHealthReply, MetricsReply
from ipc_schema.frames import Reply
from ipc_schema.mapi import control as mapi_methods
from ipc_schema.mapi.control import AppsReply, SendsReply
from logos_client._arguments import control_endpoint
from logos_client._calls import read_reply
from logos_client._connection import RequestConnection
from logos_client._opening import Opening
from logos_client._process import HomeProcess
from logos_client.exceptions import ClosedError, public_errors

__all__ = ["ControlClient"]

CONTROL_TIMEOUT: Final = 5.0


class ControlClient:
    """Control of one process. Created by `connect`."""

    def __init__(self, connection: RequestConnection) -> None:
        """Internal: use `connect`."""
        self._connection = connection
        self._home = HomeProcess()
        self._closed = False

    @classmethod
    def connect(
        cls,
        endpoint: str,
        *,
        timeout: float | None = CONTROL_TIMEOUT,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> Opening[Self]:
        """Connect: `await` it, or enter it as a context.

        Raises `NotReadyError` if there is no server within `timeout`.
        """

        where = control_endpoint(endpoint)

        async def open_client() -> Self:
            with public_errors():
                connection = RequestConnection(where, context=context)
                try:
                    await connection.wait_ready(timeout)
                except BaseException:
                    await connection.close()
                    raise
                return cls(connection)

        return Opening(open_client)

    async def health(self, *, timeout: float = CONTROL_TIMEOUT) -> ControlHealthReply:
        """Return whether the process is ready, its state, version, pid and uptime."""
        return read_reply(ControlHealthReply, await self._ask(methods.HEALTH, timeout=timeout))

    async def health_details(self, *, timeout: float = CONTROL_TIMEOUT) -> dict[str, object]:
        """Return the complete health report, including the process's own keys."""
        return (await self._ask(methods.HEALTH, {"detail": True}, timeout=timeout)).body

    async def metrics(self, *, timeout: float = CONTROL_TIMEOUT) -> MetricsReply:
        """Return every counter and gauge of the process, with type and help text."""
        return read_reply(MetricsReply, await self._ask(methods.METRICS, timeout=timeout))

    async def apps(self, *, timeout: float = CONTROL_TIMEOUT) -> AppsReply:
        """The apps of a Messaging API: backlog, position, topics. A kernel refuses it (`unknown_method`)."""
        return read_reply(AppsReply, await self._ask(mapi_methods.APPS, timeout=timeout))

    async def sends(self, *, timeout: float = CONTROL_TIMEOUT) -> SendsReply:
        """The sends without a fate of all apps of a Messaging API, oldest first."""
        return read_reply(SendsReply, await self._ask(mapi_methods.SENDS, timeout=timeout))

    async def shutdown(self, *, timeout: float = CONTROL_TIMEOUT) -> None:
        """Ask the process to exit; it does so after the reply."""
        await self._ask(methods.SHUTDOWN, timeout=timeout)

    async def set_log_level(
        self, level: str, logger: str | None = None, *, timeout: float = CONTROL_TIMEOUT
    ) -> str:
        """Change the log level of one logger or of all. Return the previous one."""
        body = methods.LogLevelRequest(level=level, logger=logger).to_body()
        reply = await self._ask(methods.LOG_LEVEL, body, timeout=timeout)
        return read_reply(methods.LogLevelReply, reply).previous

    async def _ask(self, method: str, body: dict[str, object] | None = None, *, timeout: float) -> Reply:
        self._home.check()
        if self._closed:
            raise ClosedError
        with public_errors():
            return await self._connection.request(method, body, timeout=timeout)

    async def close(self) -> None:
        """Close the connection."""
        self._closed = True
        if not self._home.left:
            await self._connection.close()

    def __repr__(self) -> str:
        return f"<ControlClient at {self._connection.endpoint}: {self._connection.state.value}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
