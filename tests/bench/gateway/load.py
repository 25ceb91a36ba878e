"""Plain clients that cost little, so that the server is what is measured."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Final
from urllib.parse import urlsplit

from tests.bench.harness import BenchError

CONNECTIONS: Final = 64
"""As many requests are under way: enough to fill the Messaging API's group commits."""
_SSE_MARK: Final = b"\nevent: message_received\n"
_FRAME_MARK: Final = b'"message_received"'


def http_request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if body:
        lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class _Poster(asyncio.Protocol):
    """One connection that has one request under way at a time."""

    def __init__(self, requests: Iterator[bytes], done: Callable[[float, int], None]) -> None:
        self._requests = requests
        self._done = done
        self._answer = b""
        self._sent = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next()

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
            return
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(
            int(line.partition(b":")[2])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        )
        if len(body) < length:
            return
        self._answer = b""
        self._done(time.perf_counter() - self._sent, int(head[9:12]))
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def post_all(url: str, path: str, content_topic: str, count: int, size: int, status: int) -> float:
    """Post so many different messages over some connections at once; answers a second."""
    host, port = _address(url)
    filler = b"." * (size - 16)

    def requests() -> Iterator[bytes]:
        for _ in range(count):
            payload = base64.b64encode(os.urandom(16) + filler).decode()
            body = f'{{"contentTopic":"{content_topic}","payload":"{payload}"}}'.encode()
            yield http_request("POST", path, body)

    wrong: list[int] = []
    answered = 0

    def done(_seconds: float, found: int) -> None:
        nonlocal answered
        answered += 1
        if found != status:
            wrong.append(found)

    prepared = iter(list(requests()))
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    posters = [
        (await loop.create_connection(lambda: _Poster(prepared, done), host, port))[1]
        for _ in range(CONNECTIONS)
    ]
    await asyncio.wait_for(asyncio.gather(*(one.ended for one in posters)), 120)
    seconds = time.perf_counter() - started
    if wrong or answered != count:
        raise BenchError(f"{answered} of {count} answered, {len(wrong)} not with {status}: {set(wrong)}")
    return count / seconds


def _address(url: str) -> tuple[str, int]:
    target = urlsplit(url)
    assert target.hostname is not None
    assert target.port is not None
    return target.hostname, target.port


def _connected(url: str, request: bytes) -> socket.socket:
    found = socket.create_connection(_address(url), timeout=60)
    found.sendall(request)
    return found


def _count_marks(url: str, request: bytes, mark: bytes, count: int) -> float:
    started = time.perf_counter()
    with closing(_connected(url, request)) as connection:
        seen, tail = 0, b""
        while seen < count:
            data = connection.recv(1 << 18)
            if not data:
                raise BenchError(f"the stream ended after {seen} of {count} events")
            data = tail + data
            seen += data.count(mark)
            # A mark may be cut in two: what could be its beginning is looked at again, a whole one is not.
            last = data.rfind(mark)
            tail = data[max(last + len(mark), len(data) - len(mark) + 1) :]
    return count / (time.perf_counter() - started)


def read_sse(url: str, path: str, count: int) -> float:
    """Read server-sent events; events a second from the request to the last."""
    return _count_marks(url, http_request("GET", path, b"", "Accept: text/event-stream"), _SSE_MARK, count)


def read_frames(url: str, path: str, count: int) -> float:
    """Read the events of a WebSocket. Frames are not taken apart: events are counted in their text."""
    request = http_request(
        "GET",
        path,
        b"",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
    )
    return _count_marks(url, request, _FRAME_MARK, count)
