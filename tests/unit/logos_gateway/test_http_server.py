"""Connections of a listener: requests one behind the other, and none at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from ipc_schema.config.gateway import HttpConfig
from logos_gateway import http_server
from logos_gateway.http_server import HttpListener
from tests.support.aio import asyncio_test

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HEAD = b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n"


@asynccontextmanager
async def _connection() -> AsyncIterator[Connection]:
    """Connect to a listener that answers with the path, and to `/slow` once the next request has begun."""
    come = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await come.wait()
        await PlainTextResponse(scope["path"])(scope, receive, send)

    begin = http_server._TimedProtocol.on_message_begin

    def on_message_begin(protocol: http_server._TimedProtocol) -> None:
        if protocol.cycle is not None:
            come.set()
        begin(protocol)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_server._TimedProtocol, "on_message_begin", on_message_begin)
        listener = HttpListener(app, HttpConfig(address="127.0.0.1", port=0))
        listener.bind()
        running = asyncio.create_task(listener.run())
        url = urlsplit(listener.url)
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        yield reader, writer
        writer.close()
        listener.stop()
        await running


async def _answer(reader: asyncio.StreamReader, path: bytes) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert await reader.readexactly(len(path)) == path


@asyncio_test()
async def test_requests_one_behind_the_other_are_answered_in_order() -> None:
    async with _connection() as (reader, writer):
        writer.write(HEAD % b"slow" + HEAD % b"a" + HEAD % b"b")
        for path in (b"/slow", b"/a", b"/b"):
            await _answer(reader, path)


@pytest.mark.parametrize("after", [b"", b"\r\n"])
def test_an_idle_connection_is_closed_whatever_empty_lines_come(
    after: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "KEEP_ALIVE_SECONDS", 0.1)

    @asyncio_test()
    async def check() -> None:
        async with _connection() as (reader, writer):
            writer.write(HEAD % b"a")
            await _answer(reader, b"/a")
            writer.write(after)
            assert await reader.read() == b""

    check()


def test_a_connection_with_a_request_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that begins before the response before it ends."""
    monkeypatch.setattr(http_server, "KEEP_ALIVE_SECONDS", 0.0)

    @asyncio_test()
    async def check() -> None:
        async with _connection() as (reader, writer):
            head = HEAD % b"a"
            writer.write(HEAD % b"slow" + head[:9])
            await _answer(reader, b"/slow")
            writer.write(head[9:])
            await _answer(reader, b"/a")
            assert await reader.read() == b""

    check()
