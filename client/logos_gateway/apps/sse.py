"""Server-sent events (WHATWG HTML §9.2) over ASGI. The listener disconnects clients that do not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

KEEP_ALIVE_SECONDS: Final = 15.0
SSE_END: Final = b"\n\n"


def sse_event(data: str, *, kind: str) -> str:
    """Return one event. `data` must not contain line breaks; compact JSON has none."""
    return f"{sse_head(kind)}{data}\n\n"


def sse_head(kind: str) -> str:
    """Return an event up to its data, which `SSE_END` follows. An id goes before it."""
    return f"event: {kind}\ndata: "


class EventStreamResponse(Response):
    """Send what an iterator yields, and a comment when it yields nothing for a while.

    Ends when the iterator does or the reader disconnects; the iterator is closed in each case.
    """

    def __init__(self, chunks: AsyncIterator[bytes], *, keep_alive: float = KEEP_ALIVE_SECONDS) -> None:
        super().__init__(media_type="text/event-stream")
        self._chunks = chunks
        self._keep_alive = keep_alive
        self._written = 0.0
        """When something was, by the loop's clock."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", b"text/event-stream; charset=utf-8"),
                    (b"cache-control", b"no-store"),
                    (b"x-accel-buffering", b"no"),
                ],
            }
        )
        self._written = asyncio.get_running_loop().time()
        writing = asyncio.create_task(self._write(send))
        leaving = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writing, leaving):
                task.cancel()
            await asyncio.gather(writing, leaving, return_exceptions=True)
        if writing.done() and not writing.cancelled() and writing.exception() is not None:
            error = writing.exception()
            if not isinstance(error, OSError):
                assert error is not None
                raise error

    async def _write(self, send: Send) -> None:
        # Not a time limit for each chunk: a task and a timer for each would cost a tenth of a busy stream.
        reminding = asyncio.create_task(self._remind(send))
        try:
            await self._put(send, b": connected\n\n")
            async for chunk in self._chunks:
                await self._put(send, chunk)
            await self._put(send, b"", more=False)
        finally:
            reminding.cancel()
            await asyncio.gather(reminding, return_exceptions=True)
            closing = getattr(self._chunks, "aclose", None)
            if closing is not None:
                await closing()

    async def _put(self, send: Send, body: bytes, *, more: bool = True) -> None:
        # The server's send waits while its socket's buffer is full.
        self._written = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": body, "more_body": more})

    async def _remind(self, send: Send) -> None:
        """Send a comment whenever nothing was written for a while."""
        loop = asyncio.get_running_loop()
        while True:
            wait = self._written + self._keep_alive - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            else:
                await self._put(send, b": keep-alive\n\n")


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
