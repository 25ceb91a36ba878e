"""Idle readers of a gateway: what each costs in memory, and what all of them cost the others in latency."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tests.bench.gateway.load import http_request

STREAMS: Final = 1000
SOCKETS: Final = 200
APPS: Final = 100
_AT_ONCE: Final = 20
_UPGRADE: Final = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")


def resident_kib(pid: int) -> int:
    """Resident memory of a process."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def _raise_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@asynccontextmanager
async def idle_readers(url: str, streams: int, sockets: int) -> AsyncIterator[None]:
    """So many server-sent event streams and WebSockets of some apps, all open, on which nothing comes."""
    _raise_limit()
    target, turn = urlsplit(url), asyncio.Semaphore(_AT_ONCE)
    assert target.hostname is not None
    host, port = target.hostname, target.port

    async def connect(stack: AsyncExitStack, request: bytes, expected: bytes) -> None:
        async with turn:
            reader, writer = await asyncio.open_connection(host, port)
            stack.callback(writer.close)
            writer.write(request)
            head = await asyncio.wait_for(reader.readuntil(expected), 60)
            assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 101")), head

    async with AsyncExitStack() as stack:
        requests = [
            (http_request("GET", f"/apps/v1/idle-{number % APPS}/events?ack=auto"), b": connected\n")
            for number in range(streams)
        ]
        for number in range(sockets):
            key = f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}"
            path = f"/apps/v1/idle-{number % APPS}/socket?ack=auto"
            requests.append((http_request("GET", path, b"", *_UPGRADE, key), b"\r\n\r\n"))
        await asyncio.gather(*(connect(stack, *one) for one in requests))
        yield
