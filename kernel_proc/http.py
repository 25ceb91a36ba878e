"""The pages of metrics, health and readiness over HTTP, for Prometheus and whoever watches nodes.

Nothing of the node may depend on who connects here: few connections at once, each with little time and one
small request; what is beyond is answered 503 or closed, and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import trio

from ipc_schema.web import Head, Site, WebError, head_of
from kernel_proc.logs import fields
from kernel_proc.metrics import Registry

__all__ = ["MAX_CONNECTIONS", "WebServer"]

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 16
SECONDS: Final = 5.0
"""For a whole connection: a request, the answer, the end."""
_CHUNK: Final = 4096


class WebServer:
    """Serves a site on one TCP port. `bind`, then `run` until cancelled."""

    def __init__(self, site: Site, registry: Registry, *, seconds: float = SECONDS) -> None:
        self._site = site
        self._seconds = seconds
        self._listeners: Sequence[trio.SocketListener] = ()
        self._connections = 0
        self._served = registry.counter("http_requests", outcome="served")
        self._bad = registry.counter("http_requests", outcome="refused")
        self._slow = registry.counter("http_requests", outcome="too_slow")
        self._busy = registry.counter("http_requests", outcome="busy")
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
                self._slow.add()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the other side is gone: there is nobody to tell
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(stream)

    async def _exchange(self, stream: trio.SocketStream) -> None:
        if self._connections > MAX_CONNECTIONS:
            self._busy.add()
            await self._end(stream, Site.refusal(HTTPStatus.SERVICE_UNAVAILABLE))
            return
        try:
            head = await _head(stream)
            if head is None:
                return
            answer = self._site.answer(head)
        except WebError as error:
            self._bad.add()
            answer = Site.refusal(error.status)
        except Exception:  # a page that fails must be told, and must not end the node
            log.exception("a page failed")
            answer = Site.refusal(HTTPStatus.INTERNAL_SERVER_ERROR)
        else:
            self._served.add()
        await self._end(stream, answer)

    async def _end(self, stream: trio.SocketStream, answer: bytes) -> None:
        """Answer, and wait for the other side's end: closed before that, unread bytes would reset the
        connection and the answer might be lost."""
        await stream.send_all(answer)
        await stream.send_eof()
        for _ in range(16):
            if not await stream.receive_some(_CHUNK):
                return


async def _head(stream: trio.SocketStream) -> Head | None:
    """The request; None when the other side ended without one."""
    data = bytearray()
    while True:
        chunk = await stream.receive_some(_CHUNK)
        if not chunk:
            return None
        data += chunk
        head = head_of(data)
        if head is not None:
            return head
