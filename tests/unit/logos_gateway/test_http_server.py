"""Connections of a listener: requests one behind the other, and none at all; what is around a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.requests import Request
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
    """Connect to a listener that answers with the path, to `/slow` once the next request has begun, and to a
    POST with its body and the headers named `x`."""
    come = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        answer = scope["path"]
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (await receive())["type"] != "websocket.disconnect":
                pass
            return
        if scope["method"] == "POST":
            body = await Request(scope, receive).body()
            answer = f"{body.decode()} {[value for name, value in scope['headers'] if name == b'x']}"
        elif answer == "/slow":
            await come.wait()
        await PlainTextResponse(answer)(scope, receive, send)

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
        try:
            yield reader, writer
        finally:
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


UPGRADE = b"%s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nx: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n"


@pytest.mark.parametrize("apart", [False, True])
@asyncio_test()
async def test_an_upgrade_that_is_not_known_is_ignored(*, apart: bool) -> None:
    """As curl with --http2 and Java's client ask for it. The body was lost, or taken for another request."""
    async with _connection() as (reader, writer):
        hidden = HEAD % b"hidden"
        writer.write(UPGRADE % b"POST /" + b"Content-Length: %d\r\n\r\n" % len(hidden))
        if apart:
            await asyncio.sleep(0)
            await writer.drain()
        writer.write(hidden + UPGRADE % b"GET /a" + b"\r\n" + HEAD % b"b")
        await _answer(reader, hidden + b" []")
        await _answer(reader, b"/a")
        await _answer(reader, b"/b")


@asyncio_test()
async def test_trailers_are_no_headers() -> None:
    async with _connection() as (reader, writer):
        writer.write(CHUNKED + b"x: 2\r\n\r\n" + HEAD % b"a")
        await _answer(reader, b"hi [b'1']")
        await _answer(reader, b"/a")


@pytest.mark.parametrize("line", [b"x: 2\r\n", b"x" * 999], ids=["trailers", "one trailer"])
@asyncio_test()
async def test_trailers_without_end_are_refused(line: bytes) -> None:
    async with _connection() as (reader, writer):
        before = http_server.refused["large_head"]
        writer.write(CHUNKED)
        with suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(line * 100)
                await writer.drain()
                await asyncio.sleep(0)
        assert http_server.refused["large_head"] == before + 1


@asyncio_test()
async def test_pipelined_bodies_do_not_count_as_a_head() -> None:
    body = b"x" * (http_server.MAX_HEAD + 1)
    post = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with _connection() as (reader, writer):
        writer.write(post + body + post[:9])
        await _answer(reader, body + b" []")
        writer.write(post[9:] + body)
        await _answer(reader, body + b" []")


@asyncio_test()
async def test_a_connection_through_us_is_a_bad_request() -> None:
    """What follows the head of a CONNECT is another protocol's, so there is nothing to go on with."""
    async with _connection() as (reader, writer):
        writer.write((HEAD % b"a").replace(b"GET", b"CONNECT") + b"more")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.endswith(b"CONNECT is not supported.")


@asyncio_test()
async def test_upgrades_that_are_not_known_are_ignored_also_by_the_hundred() -> None:
    async with _connection() as (reader, writer):
        writer.write((UPGRADE % b"GET /a" + b"\r\n") * 1000)
        for _ in range(1000):
            await _answer(reader, b"/a")


@asyncio_test()
async def test_what_follows_the_last_request_does_not_cost_its_answer() -> None:
    upgrade = (UPGRADE % b"POST /").replace(b"HTTP2-Settings", b"close")
    async with _connection() as (reader, writer):
        writer.write(upgrade + b"Content-Length: 2\r\n\r\nhi\r\n" + HEAD % b"a")
        await _answer(reader, b"hi []")
        assert await reader.read() == b""


SOCKET = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
MASKED = b"\x80" + bytes(4)
"""Length and mask of a frame without bytes."""


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (b"\x01" + MASKED + (b"\x00" + MASKED) * http_server.MAX_FRAGMENTS, 1009),
        (b"\x01" + MASKED + (b"\x00" + MASKED) * (http_server.MAX_FRAGMENTS + 2), 1009),
        (b"\x81\x81" + bytes(4) + b"\xff", 1007),
        (b"\x81\x81" + bytes(4) + b"\xff" + b"\x88\x82" + bytes(4) + b"\x03\xe8", 1000),
    ],
    ids=["fragments without end", "further fragments", "not UTF-8", "not UTF-8, and closed"],
)
@asyncio_test()
async def test_a_socket_with_such_a_message_is_closed(frames: bytes, code: int) -> None:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with _connection() as (reader, writer):
        writer.write(SOCKET + b"\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.write(frames)
        close = await reader.read()
        assert close[0] == 0x88
        assert int.from_bytes(close[2:4], "big") == code
    assert faults == []


@asyncio_test()
async def test_a_socket_whose_head_is_refused_is_closed() -> None:
    """websockets takes lines of up to 8 KiB. The connection stayed open without an answer, for good."""
    async with _connection() as (reader, writer):
        writer.write(SOCKET + b"x: " + b"x" * 9000 + b"\r\n\r\n")
        answer = await reader.read()  # to its end; older versions of websockets refuse without a word
        assert answer[:13] in (b"", b"HTTP/1.1 431 ")
