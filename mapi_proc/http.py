"""The pages of metrics, health and readiness over HTTP, for Prometheus and whoever watches nodes.

Nothing of the Messaging API may depend on who connects here: few connections at once, each with little time
and one small request; what is beyond is answered 503 or closed, and counted.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from ipc_schema.logs import fields
from ipc_schema.web import MAX_HEAD, Head, Site, WebError, head_of
from mapi_proc.host import HostError

__all__ = ["MAX_CONNECTIONS", "WebCounters", "WebServer"]

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 16
SECONDS: Final = 5.0
"""For a whole connection: a request, the answer, the end."""
_CHUNK: Final = 4096


@dataclass(slots=True)
class WebCounters:
    """Connections since the start, by what became of them."""

    served: int = 0
    refused: int = 0
    too_slow: int = 0
    busy: int = 0


class WebServer:
    """Serves a site on one TCP port, from `start` to `close`."""

    def __init__(self, site: Site, *, seconds: float = SECONDS) -> None:
        self._site = site
        self._seconds = seconds
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.counters = WebCounters()
        self.port = 0
        """The port bound."""

    async def start(self, address: str, port: int) -> None:
        """Listen and serve; port 0 picks a free one. Raises HostError."""
        try:
            self._server = await asyncio.start_server(
                self._accepted, address, port, limit=MAX_HEAD, backlog=64
            )
        except OSError as error:
            raise HostError(
                f"cannot listen on metrics-server-address {address} (metrics-server-port {port}): {error}"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]
        log.info("metrics served", extra=fields(address=address, port=self.port))

    async def close(self) -> None:
        """Listen no more and end what is open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: one that the stream library keeps would report its cancellation as an error.
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer), name="http")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await self._exchange(reader, writer)
        except TimeoutError:
            self.counters.too_slow += 1
        except OSError:
            pass  # the other side is gone: there is nobody to tell
        finally:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) > MAX_CONNECTIONS:
            self.counters.busy += 1
            await _end(reader, writer, Site.refusal(HTTPStatus.SERVICE_UNAVAILABLE))
            return
        try:
            head = await _head(reader)
            if head is None:
                return
            answer = self._site.answer(head)
        except WebError as error:
            self.counters.refused += 1
            answer = Site.refusal(error.status)
        except OSError:
            raise
        except Exception:  # a page that fails must be told, and must not end the process
            log.exception("a page failed")
            answer = Site.refusal(HTTPStatus.INTERNAL_SERVER_ERROR)
        else:
            self.counters.served += 1
        await _end(reader, writer, answer)


async def _head(reader: asyncio.StreamReader) -> Head | None:
    """The request; None when the other side ended without one."""
    data = bytearray()
    while True:
        chunk = await reader.read(_CHUNK)
        if not chunk:
            return None
        data += chunk
        head = head_of(data)
        if head is not None:
            return head


async def _end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes) -> None:
    """Answer, and wait for the other side's end: closed before that, unread bytes would reset the connection
    and the answer might be lost."""
    writer.write(answer)
    await writer.drain()
    writer.write_eof()
    for _ in range(16):
        if not await reader.read(_CHUNK):
            return
