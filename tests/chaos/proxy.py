"""A link between two kernels: a TCP proxy that can be cut, in both ways in which networks fail."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

_CHUNK: Final = 1 << 16


class Link:
    """Listens on a port of its own and forwards to `target`, a port on loopback.

    Frozen, it forwards nothing and takes nothing in: what is under way waits, as TCP's own retransmission
    makes it wait, and a new connection hangs. Reset, connections end and new ones end at once. Cuts may
    overlap; the link works again when the last one is over.
    """

    def __init__(self, name: str, target: int) -> None:
        self.name = name
        self.target = target
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._frozen = 0
        self._refused = 0
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to listen; `port` is known after that."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End the link."""
        assert self._server is not None
        self._server.close()
        self._end_connections()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def cut(self, seconds: float, *, frozen: bool) -> None:
        """Cut the link; returns when it works again (but for other cuts)."""
        if frozen:
            self._frozen += 1
            self._open.clear()
        else:
            self._refused += 1
            self._end_connections()
        try:
            await asyncio.sleep(seconds)
        finally:
            if frozen:
                self._frozen -= 1
                if not self._frozen:
                    self._open.set()
            else:
                self._refused -= 1

    def _end_connections(self) -> None:
        for task in self._connections:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if not self._refused:
                await self._forward(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # either end went, or the link was cut: both are what a link is for
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        pumps = [
            asyncio.ensure_future(self._pump(reader, far_writer)),
            asyncio.ensure_future(self._pump(far_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            far_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
