"""Event streams over ASGI: comments while nothing comes, and a clean end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.types import Message

from logos_gateway.apps.sse import EventStreamResponse
from tests.support.aio import asyncio_test


class Reader:
    """The server's side of a request: what was sent, and when the reader leaves."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.came = asyncio.Condition()
        self.left = asyncio.Event()
        self.end = False

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            async with self.came:
                self.bodies.append(message["body"])
                self.end = not message["more_body"]
                self.came.notify_all()

    async def has(self, body: bytes, count: int = 1) -> None:
        async with self.came:
            await self.came.wait_for(lambda: self.bodies.count(body) >= count)


@asyncio_test(deadline=20)
async def test_comments_come_while_events_do_not_and_the_end_closes_the_source() -> None:
    reader, go_on = Reader(), asyncio.Event()
    closed: list[str] = []

    async def source() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            await go_on.wait()
            yield b"two"
        finally:
            closed.append("source")

    serving = asyncio.create_task(
        EventStreamResponse(source(), keep_alive=0.001)({}, reader.receive, reader.send)
    )
    await reader.has(b"one")
    await reader.has(b": keep-alive\n\n", 3)
    go_on.set()
    await serving
    events = [body for body in reader.bodies if body != b": keep-alive\n\n"]
    assert events == [b": connected\n\n", b"one", b"two", b""]
    assert reader.end
    assert closed == ["source"]


@asyncio_test(deadline=20)
async def test_a_reader_that_leaves_closes_the_source_wherever_it_is() -> None:
    reader = Reader()
    closed: list[str] = []

    async def source() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            await asyncio.Event().wait()
        finally:
            closed.append("source")

    serving = asyncio.create_task(EventStreamResponse(source())({}, reader.receive, reader.send))
    await reader.has(b"one")
    reader.left.set()
    await serving
    assert closed == ["source"]
    assert not reader.end
