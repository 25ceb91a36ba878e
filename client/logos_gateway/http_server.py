"""HTTP listeners on uvicorn (httptools, uvloop), with a limit on how long a request's head may take.

uvicorn bounds the size of a head and idle keep-alive connections, but not the time in which a head must come:
a client that sends one byte a minute would hold a connection for ever (slow loris).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ipc_schema.config.gateway import HttpConfig

__all__ = ["HEAD_SECONDS", "HttpListener", "ListenError"]

HEAD_SECONDS: Final = 10.0
"""From the first byte of a request, or from the connection's begin, to the end of its headers."""
KEEP_ALIVE_SECONDS: Final = 15
MAX_HEAD: Final = 64 * 1024
MAX_CONNECTIONS: Final = 4096
"""At once, per listener; more are answered 503."""


_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class ListenError(Exception):
    """The address cannot be listened on; the text says why."""


class _TimedProtocol(HttpToolsProtocol):
    """Closes a connection whose request head does not come in time."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_head()

    def _expect_head(self) -> None:
        self._stop_timer()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            self.transport.close()


class _QuietServer(uvicorn.Server):
    """A server that leaves signals to the process that runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpListener:
    """One listener: `bind`, then `run` until `stop`."""

    def __init__(
        self, app: ASGIApp, config: HttpConfig, *, tls_cert: str | None = None, tls_key: str | None = None
    ) -> None:
        self._config = config
        self._socket: socket.socket | None = None
        self._server = _QuietServer(
            uvicorn.Config(
                app,
                http=_TimedProtocol,
                ws="websockets-sansio",
                ws_max_size=24 << 20,
                ws_ping_interval=20.0,
                ws_ping_timeout=20.0,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=True,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=2,
                limit_concurrency=MAX_CONNECTIONS,
                h11_max_incomplete_event_size=MAX_HEAD,
                ssl_certfile=tls_cert,
                ssl_keyfile=tls_key,
            )
        )
        self._scheme = "https" if tls_cert else "http"

    def bind(self) -> None:
        """Listen. Raises `ListenError`."""
        family = socket.AF_INET6 if ":" in self._config.address else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((self._config.address, self._config.port))
            listening.listen(512)
            listening.setblocking(False)
        except OSError as error:
            listening.close()
            raise ListenError(
                f"cannot listen on {self._config.address} port {self._config.port}: {error}"
            ) from error
        self._socket = listening

    @property
    def url(self) -> str:
        """Where it is served, with the port that was bound."""
        assert self._socket is not None, "bind comes first"
        host = f"[{self._config.address}]" if ":" in self._config.address else self._config.address
        return f"{self._scheme}://{host}:{self._socket.getsockname()[1]}"

    async def run(self) -> None:
        """Serve until `stop`."""
        assert self._socket is not None, "bind comes first"
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """End: open requests get two seconds."""
        self._server.should_exit = True
