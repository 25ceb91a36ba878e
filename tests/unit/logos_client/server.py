"""A small server that speaks the contract's request frames over a real ROUTER, on the test's own loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import zmq

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import FrameError, Request, decode_request, encode_error, encode_reply
from logos_sockets import open_router
from logos_sockets.drain import DrainSocket

Body = Mapping[str, object]
Answer = Body | tuple[Body, Sequence[bytes]] | None
Handler = Callable[[bytes, Request], Answer]

NETWORK: Body = {
    "cluster": 42,
    "shard_count": 1,
    "max_message_size": 153_600,
    "preset": "",
    "rln_required": False,
}


class ContractServer:
    """Answers requests with `handlers[method](identity, request)`: a body, (body, blobs), an `IpcError`, or
    None for silence.

    Connections that did not say hello get `not_ready`, as the contract has it. `stop()` and `start()` make
    a new instance on the same path, as a restarted process would be.
    """

    def __init__(self, path: Path, *, needs_hello: bool = True) -> None:
        self.path = path
        self.endpoint = f"ipc://{path}"
        self.needs_hello = needs_hello
        self.instance = b""
        self.limits: dict[str, object] = {"in_flight": 64, "body_bytes": 1 << 20, "blob_bytes": 200_000}
        self.handlers: dict[str, Handler] = {"hello": self.hello, "ping": lambda _identity, _request: {}}
        self.requests: list[Request] = []
        self.known: set[bytes] = set()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: DrainSocket | None = None
        self.start()

    def start(self) -> None:
        self.instance = os.urandom(16)
        self.known.clear()
        router = open_router(self._context, linger_ms=0)
        router.bind(self.endpoint)
        self._socket = DrainSocket(
            asyncio.get_running_loop(), router, self._handle, on_writable=self.writable
        )

    def stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        self.stop()
        self._context.destroy(linger=0)

    def send(self, identity: bytes, frames: Sequence[bytes]) -> bool:
        """Frames of any kind, garbage too."""
        assert self._socket is not None
        return self._socket.send([identity, *frames])

    def writable(self, identity: bytes) -> None:
        """A connection that refused frames takes some again."""

    def methods(self) -> list[str]:
        """Names of the requests that came, in order."""
        return [request.method for request in self.requests]

    def hello(self, _identity: bytes, _request: Request) -> Answer:
        return self.hello_body()

    def hello_body(self) -> dict[str, object]:
        return {
            "protocol": 1,
            "instance": self.instance,
            "server": "test/1",
            "features": [],
            "limits": self.limits,
            "heartbeat_ms": 1000,
            "network": NETWORK,
        }

    def _handle(self, frames: list[bytes]) -> None:
        identity = frames[0]
        try:
            request, _ = decode_request(frames[1:])
        except FrameError as error:
            self.send(identity, encode_error(error.correlation_id, self.instance, error))
            return
        self.requests.append(request)
        try:
            if request.method != "hello" and self.needs_hello and identity not in self.known:
                raise IpcError(ErrorCode.NOT_READY, "hello first")
            handler = self.handlers.get(request.method)
            if handler is None:
                raise IpcError(ErrorCode.UNKNOWN_METHOD, request.method)
            answer = handler(identity, request)
        except IpcError as error:
            self.send(identity, encode_error(request.correlation_id, self.instance, error))
            return
        if answer is None:
            return
        if request.method == "hello":
            self.known.add(identity)
        self.answer(identity, request, answer)

    def answer(self, identity: bytes, request: Request, answer: Answer) -> None:
        """A reply, now or later than the handler returned."""
        if answer is None or request.no_reply:
            return
        body, blobs = answer if isinstance(answer, tuple) else (answer, ())
        self.send(identity, encode_reply(request.correlation_id, self.instance, body, blobs))
