"""Plain clients that cost little, so that the server is what is measured."""

from __future__ import annotations

import base64
import os
import re
import select
import socket
import time
from collections import Counter
from contextlib import ExitStack, closing
from typing import Final
from urllib.parse import urlsplit

from tests.bench.harness import BenchError

CONNECTIONS: Final = 64
"""As many requests are under way: enough to fill the Messaging API's group commits."""
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_SSE_MARK: Final = b"\nevent: message_received\n"
_FRAME_MARK: Final = b'"message_received"'


def http_request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if body:
        lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class _Poster:
    """One connection that has one request under way at a time."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answer = b""

    def post(self, request: bytes) -> None:
        self.socket.sendall(request)

    def answered(self) -> int:
        """Read what has come. Return the status of an answer that is complete, else 0."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise BenchError("the server closed a connection")
        answer = self._answer + data if self._answer else data
        end = answer.find(b"\r\n\r\n")
        length = _LENGTH.search(answer, 0, end) if end > 0 else None
        if length is None or len(answer) < end + 4 + int(length[1]):
            self._answer = answer
            return 0
        self._answer = b""
        return int(answer[9:12])


def post_all(url: str, path: str, content_topic: str, count: int, size: int, status: int) -> float:
    """Post so many different messages over some connections at once; answers a second.

    Without an event loop of asyncio's kind: the client must not take what the server needs.
    """
    filler = b"." * (size - 16)
    prepared: list[bytes] = []
    for _ in range(count):
        payload = base64.b64encode(os.urandom(16) + filler).decode()
        body = f'{{"contentTopic":"{content_topic}","payload":"{payload}"}}'.encode()
        prepared.append(http_request("POST", path, body))
    found: Counter[int] = Counter()
    with ExitStack() as stack:
        poller = stack.enter_context(select.epoll())
        posters: dict[int, _Poster] = {}
        for _ in range(min(CONNECTIONS, count)):
            poster = _Poster(_address(url))
            stack.callback(poster.socket.close)
            posters[poster.socket.fileno()] = poster
            poller.register(poster.socket, select.EPOLLIN)
        started = time.perf_counter()
        for poster in posters.values():
            poster.post(prepared.pop())
        while found.total() < count:
            ready = poller.poll(60)
            if not ready:
                raise BenchError(f"{found.total()} of {count} answered")
            for descriptor, _ in ready:
                poster = posters[descriptor]
                code = poster.answered()
                if code:
                    found[code] += 1
                    if prepared:
                        poster.post(prepared.pop())
        seconds = time.perf_counter() - started
    if found[status] != count:
        raise BenchError(f"not all of {count} answered with {status}: {dict(found)}")
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
