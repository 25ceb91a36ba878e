"""The control ROUTER: health, shutdown, log level; never behind the apps' work (SPEC.md, 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import zmq

from ipc_schema.control import HEALTH, LOG_LEVEL, SHUTDOWN, LogLevelReply, LogLevelRequest
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Request
from logos_process import logs
from logos_process.logs import LogLevelError
from mapi_proc.ipc.router import Answer, Caller, Result, RouterServer

__all__ = ["ControlServer"]


class ControlServer:
    """Answers on a bound ROUTER. `health()` gives the body of the reply; `shutdown()` begins the end."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        instance: bytes,
        health: Callable[[], Mapping[str, object]],
        shutdown: Callable[[], None],
        *,
        allowed_uids: frozenset[int],
    ) -> None:
        self._health = health
        self._shutdown = shutdown
        self._router = RouterServer(socket, instance, self._handle, allowed_uids=allowed_uids)
        self.counters = self._router.counters

    async def close(self) -> None:
        await self._router.close()

    def _handle(self, caller: Caller, request: Request) -> Result:  # noqa: ARG002
        if request.method == HEALTH:
            return Answer(self._health())
        if request.method == SHUTDOWN:
            self._shutdown()
            return Answer()
        if request.method == LOG_LEVEL:
            wanted = LogLevelRequest.from_body(request.body)
            try:
                previous = logs.set_level(wanted.level, wanted.logger)
            except LogLevelError as error:
                raise IpcError(ErrorCode.BAD_REQUEST, str(error)) from error
            return Answer(LogLevelReply(previous=previous).to_body())
        raise IpcError(ErrorCode.UNKNOWN_METHOD, f"there is no method {request.method[:64]!r}")
