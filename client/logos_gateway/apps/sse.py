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
        await _put(send, b": connected\n\n", more=True)
        pending: asyncio.Task[bytes] | None = None
        try:
            while True:
                if pending is None:
                    pending = asyncio.ensure_future(anext(self._chunks))
                done, _ = await asyncio.wait({pending}, timeout=self._keep_alive)
                if not done:
                    await _put(send, b": keep-alive\n\n", more=True)
                    continue
                try:
                    chunk = pending.result()
                except StopAsyncIteration:
                    break
                pending = None
                await _put(send, chunk, more=True)
            await _put(send, b"", more=False)
        finally:
            if pending is not None:
                pending.cancel()
                await asyncio.gather(pending, return_exceptions=True)
            closing = getattr(self._chunks, "aclose", None)
            if closing is not None:
                await closing()


async def _put(send: Send, body: bytes, *, more: bool) -> None:
    # The server's send waits while its socket's buffer is full.
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
