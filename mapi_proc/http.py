"""The pages of metrics, health and readiness over HTTP, on asyncio. See `ipc_schema.web` for what is
answered."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from ipc_schema.web import MAX_CONNECTIONS, MAX_HEAD, SECONDS, Outcome, Site, Visit
from logos_process.exits import StartError
from logos_process.logs import fields

__all__ = ["WebServer", "no_visits"]

log = logging.getLogger(__name__)

_CHUNK: Final = 4096


def no_visits() -> dict[Outcome, int]:
    """Connections by what became of them, when nobody has come yet."""
    return dict.fromkeys(Outcome, 0)


class WebServer:
    """Serves a site on one TCP port, from `start` to `close`."""

    def __init__(self, site: Site, *, seconds: float = SECONDS) -> None:
        self._site = site
        self._seconds = seconds
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.counters = no_visits()
        """Connections since the start, by what became of them."""
        self.port = 0
        """The port bound."""

    async def start(self, address: str, port: int) -> None:
        """Listen and serve; port 0 picks a free one. Raises StartError."""
        try:
            self._server = await asyncio.start_server(
                self._accepted, address, port, limit=MAX_HEAD, backlog=64
            )
        except OSError as error:
            raise StartError(
                f"cannot listen on metrics-server-address {address} (metrics-server-port {port}): {error}",
                StartError.code_of(error.errno),
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
            self.counters[Outcome.TOO_SLOW] += 1
        except OSError:
            pass  # the other side is gone: there is nobody to tell
        finally:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = Visit(self._site)
        answer = visit.turn_away() if len(self._tasks) > MAX_CONNECTIONS else None
        while answer is None:
            data = await reader.read(_CHUNK)
            if not data:
                return
            answer = visit.receive(data)
        if visit.outcome is not None:
            self.counters[visit.outcome] += 1
        writer.write(answer)
        await writer.drain()
        writer.write_eof()
        # Closed before the other side has ended, unread bytes would reset the connection and the answer
        # might be lost.
        for _ in range(16):
            if not await reader.read(_CHUNK):
                return
