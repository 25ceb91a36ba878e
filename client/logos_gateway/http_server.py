"""HTTP listeners on uvicorn (httptools, uvloop), with limits on clients that are slow to send or to read.

uvicorn bounds idle keep-alive connections, but with httptools neither the size of a head or of a chunked
body's trailers, nor the time in which a head must come: a client that sends one byte a minute would hold a
connection for ever (slow loris). So would one that never reads: closing a connection waits until what was
written has gone out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import httptools
import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp, Send
from uvicorn.protocols.http.httptools_impl import (
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from ipc_schema.config.gateway import HttpConfig
from logos_gateway.bodies import BODY_COMPLETE
from logos_sockets import free_descriptors

HEAD_SECONDS: Final = 10.0
"""Seconds from the start of a connection or request to the end of its headers."""
WRITE_SECONDS: Final = 20.0
"""Seconds after which a client that reads nothing is disconnected."""
KEEP_ALIVE_SECONDS: Final = 15
MAX_HEAD: Final = 64 * 1024
"""Bytes of a head, and of what is around the chunks of a body."""
MAX_FRAGMENTS: Final = 4096
"""Frames of one WebSocket message: its bytes are bounded, but empty frames have none."""
MAX_CONNECTIONS: Final = 4096
"""Open at once, per listener; further ones are answered 503."""

RESERVE: Final = 128
"""Descriptors to keep free: for the sockets to the node, and to refuse connections."""

refused: Final[Counter[str]] = Counter({"full": 0, "large_head": 0, "malformed": 0, "slow_head": 0})
"""Connections closed before a request was complete, by reason."""
stalled: Final[Counter[str]] = Counter({"http": 0, "websocket": 0})
"""Connections closed because their client read nothing."""


def answer_at_once(send: Send, response: Response) -> bool:
    """Write a whole response. Return False, with nothing done, if that is left to `response` and `send`.

    uvicorn writes the head and the body of a response apart, which is a second call of the system, a second
    packet, and often a second turn of the client for each request.
    """
    cycle = getattr(send, "__self__", None)
    if (
        type(cycle) is not RequestResponseCycle
        or cycle.disconnected
        or cycle.response_started
        or cycle.flow.write_paused
        or cycle.scope["method"] == "HEAD"
    ):
        return False
    parts = [STATUS_LINE[response.status_code]]
    sized = response.status_code == 204
    for headers in (cycle.default_headers, response.raw_headers):
        for name, value in headers:
            if name == b"connection" or HEADER_VALUE_RE.search(value):
                return False
            sized = sized or name == b"content-length"
            parts += name, b": ", value, b"\r\n"
    if not sized:
        return False
    parts += b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n", bytes(response.body)
    cycle.transport.write(b"".join(parts))
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


class ListenError(Exception):
    """Cannot listen on the address; the text says why."""


class _Stall:
    """Close a connection whose client reads nothing. `pause`: the socket's buffer is full; `resume`: it has
    drained."""

    _timer: asyncio.TimerHandle | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop, kind: str) -> None:
        self._loop = loop
        self._kind = kind

    def pause(self, transport: Any) -> None:
        waiting = transport.get_write_buffer_size()
        self._timer = self._loop.call_later(WRITE_SECONDS, self._check, transport, waiting)

    def resume(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self, transport: Any, before: int) -> None:
        if transport.get_write_buffer_size() < before:  # slow, but it reads
            self.pause(transport)
        else:
            stalled[self._kind] += 1
            transport.abort()


class _SocketProtocol(WebSocketsSansIOProtocol):
    """A WebSocket that is closed if its client does not read."""

    def connection_made(self, transport: Any) -> None:
        self._stall = _Stall(self.loop, "websocket")
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stall.resume()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except InvalidState:  # further frames had come with what closes the socket
            self._write_rest()
        if not self.handshake_initiated:  # websockets has refused the head, which is here as a whole
            self._write_rest()

    def _write_rest(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def handle_cont(self, event: Any) -> None:
        if len(self.frames) < MAX_FRAGMENTS:
            super().handle_cont(event)
        else:
            self.conn.send_close(1009, "too many fragments")
            self.handle_parser_exception()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.pause(self.transport)

    def resume_writing(self) -> None:
        self._stall.resume()
        super().resume_writing()


class _TimedProtocol(HttpToolsProtocol):
    """Bound the time and size of a request's head, the time without reading, and the number of
    connections."""

    _head_timer: asyncio.TimerHandle | None = None
    _idle_timer: asyncio.TimerHandle | None = None
    _idle_since: float | None = None
    """When the last response ended; None while a request comes or is served."""
    _in_head = True
    _advanced = False
    """The bytes just read have completed a head or a body, or a part of a body."""
    _held_bytes = 0
    """Bytes that have completed nothing: what the parser keeps grows with them."""
    _refused = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._stall = _Stall(self.loop, "http")
        if len(self.connections) > MAX_CONNECTIONS or free_descriptors() < RESERVE:
            self._refuse("full", b"503 Service Unavailable")
            return
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._advanced = False
        while True:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    self.handle_websocket_upgrade()
                    return
                if self.parser.get_method() == b"CONNECT":
                    self.send_400_response("CONNECT is not supported.")
                    return
                data = self._without_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
                return
        self._held_bytes = 0 if self._advanced else self._held_bytes + len(data)
        if self._held_bytes > MAX_HEAD:
            self._refuse("large_head", b"431 Request Header Fields Too Large")
        elif self._in_head and self._head_timer is None:  # most heads come whole, and need no timer
            self._expect_head()

    def _without_upgrade(self) -> bytes:
        """Return the head without its upgrade, for a new parser: a server ignores an upgrade that it does not
        know (RFC 9110, 7.8), but the parser takes what follows, even a body, for another protocol's."""
        parts = [self.parser.get_method(), b" ", self.url, b" HTTP/"]
        parts += self.parser.get_http_version().encode(), b"\r\n"
        for name, value in self.headers:
            if name == b"connection":
                value = b",".join(one for one in value.split(b",") if one.strip().lower() != b"upgrade")
            if name != b"upgrade":
                parts += name, b": ", value, b"\r\n"
        self.parser = httptools.HttpRequestParser(self)
        # As uvicorn's own: what follows the last request of a connection must not cost its answer.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"".join((*parts, b"\r\n"))

    def _is_upgrade_unknown(self) -> bool:
        return self.parser.should_upgrade() and not self._should_upgrade()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._held_bytes, self._idle_since = True, 0, None
        self._stop_timer()

    def on_body(self, body: bytes) -> None:
        self._advanced = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._advanced = True
        if not self._is_upgrade_unknown():
            self.scope["state"][BODY_COMPLETE] = True
            super().on_message_complete()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._in_head, self._advanced = False, True
        size = sum(len(name) + len(value) for name, value in self.headers)
        if max(size, self._held_bytes) > MAX_HEAD:  # all of it came at once
            self._refuse("large_head", b"431 Request Header Fields Too Large")
            raise ValueError("the head is too large")  # ends the parser's work on these bytes
        if not self._is_upgrade_unknown():
            super().on_headers_complete()
            # The parser adds trailers, which must not be taken for headers (RFC 9110, 6.5.1).
            self.headers = self.headers.copy()

    def on_response_complete(self) -> None:
        """As uvicorn's, but with one timer for many idle times: one for each costs a tenth of a request."""
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        if self._in_head:
            return  # another request comes already, and the timer of its head runs
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(KEEP_ALIVE_SECONDS, self._check_idle)

    def _unset_keepalive_if_required(self) -> None:
        """Do nothing: uvicorn calls it for all bytes, also for empty lines, which begin no request."""

    def _check_idle(self) -> None:
        self._idle_timer = None
        if self._idle_since is None:
            return  # the next response starts it again
        left = self._idle_since + KEEP_ALIVE_SECONDS - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._check_idle)
        else:
            self.timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        if not self._refused:
            refused["malformed"] += 1
            self._refused = True
            super().send_400_response(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        self._stall.resume()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.pause(self.transport)

    def resume_writing(self) -> None:
        self._stall.resume()
        super().resume_writing()

    def _expect_head(self) -> None:
        self._stop_timer()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._refuse("slow_head", b"408 Request Timeout")

    def _refuse(self, reason: str, status: bytes) -> None:
        refused[reason] += 1
        self._stop_timer()
        self._refused = True
        if not self.transport.is_closing():
            head = b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            self.transport.write(head)
            self.transport.close()


_COUNTED_ELSEWHERE: Final = (
    "Invalid UTF-8 sequence received from client.",
    # uvicorn logs this for every WebSocket that is refused with an HTTP status.
    "ASGI callable returned without completing handshake",
)


def _worth_a_line(record: logging.LogRecord) -> bool:
    """Drop records that any stranger can cause: they are counted, and must not fill the log."""
    return not record.getMessage().startswith(_COUNTED_ELSEWHERE)


class _QuietServer(uvicorn.Server):
    """A server that leaves signals to the process."""

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
                ws=_SocketProtocol,
                ws_max_size=24 << 20,
                ws_ping_interval=20.0,
                ws_ping_timeout=20.0,
                lifespan="off",
                interface="asgi3",  # uvicorn cannot tell it from a compiled application
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
        logging.getLogger("uvicorn.error").addFilter(_worth_a_line)
        self._scheme = "https" if tls_cert else "http"

    def bind(self) -> None:
        """Listen. Raises `ListenError`; OSError for a certificate or key that cannot be used."""
        self._server.config.load()
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
        """The URL, with the bound port."""
        assert self._socket is not None, "bind comes first"
        host = f"[{self._config.address}]" if ":" in self._config.address else self._config.address
        return f"{self._scheme}://{host}:{self._socket.getsockname()[1]}"

    async def run(self) -> None:
        """Serve until `stop`."""
        assert self._socket is not None, "bind comes first"
        sweeping = asyncio.create_task(self._sweep(), name="closing connections")
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            sweeping.cancel()

    async def _sweep(self) -> None:
        """Abort closed connections whose client does not read the rest."""
        left: dict[Any, int] = {}
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            closing = [one for one in self._server.server_state.connections if one.transport.is_closing()]
            sizes = {one: one.transport.get_write_buffer_size() for one in closing}
            for one, size in sizes.items():
                if left.get(one) == size > 0:
                    stalled["websocket" if isinstance(one, _SocketProtocol) else "http"] += 1
                    one.transport.abort()
            left = sizes

    def stop(self) -> None:
        """Stop: open requests get two seconds."""
        self._server.should_exit = True
