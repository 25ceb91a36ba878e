"""The pages of metrics, health and readiness over HTTP, on trio. `ipc_schema.web` says what is answered."""

from __future__ import annotations

import logging
from typing import Any, Final

import trio

from ipc_schema.web import MAX_CONNECTIONS, SECONDS, Outcome, Site, Visit
from kernel_proc.metrics import Registry
from logos_process.logs import fields

__all__ = ["WebServer"]

log = logging.getLogger(__name__)

_CHUNK: Final = 4096


class WebServer:
    """Serves a site on one TCP port. `bind`, then `run` until cancelled."""

    def __init__(self, site: Site, registry: Registry, *, seconds: float = SECONDS) -> None:
        self._site = site
        self._seconds = seconds
        self._listeners: list[trio.SocketListener] = []
        self._connections = 0
        self._outcomes = {
            outcome: registry.counter("http_requests", outcome=str(outcome)) for outcome in Outcome
        }
        self.port = 0
        """The port bound."""

    async def bind(self, address: str, port: int) -> None:
        """Listen; port 0 picks a free one. Raises OSError."""
        self._listeners = await trio.open_tcp_listeners(port, host=address, backlog=64)
        self.port = self._listeners[0].socket.getsockname()[1]
        log.info("metrics served", extra=fields(address=address, port=self.port))

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, then close."""
        await trio.serve_listeners(self._serve, self._listeners, task_status=task_status)

    async def _serve(self, stream: trio.SocketStream) -> None:
        self._connections += 1
        try:
            with trio.move_on_after(self._seconds) as scope:
                await self._exchange(stream)
            if scope.cancelled_caught:
                self._outcomes[Outcome.TOO_SLOW].add()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the other side is gone: there is nobody to tell
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(stream)

    async def _exchange(self, stream: trio.SocketStream) -> None:
        visit = Visit(self._site)
        answer = visit.turn_away() if self._connections > MAX_CONNECTIONS else None
        while answer is None:
            data = await stream.receive_some(_CHUNK)
            if not data:
                return
            answer = visit.receive(data)
        if visit.outcome is not None:
            self._outcomes[visit.outcome].add()
        await stream.send_all(answer)
        await stream.send_eof()
        # Closed before the other side has ended, unread bytes would reset the connection and the answer
        # might be lost.
        for _ in range(16):
            if not await stream.receive_some(_CHUNK):
                return
