"""Serve requests with trio: the shell around `ipc_schema.server` for each ROUTER of the kernel."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import trio
import zmq

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.server import Answer, Call, RequestServer, Route
from kernel_proc.ipc.consumers import Consumers
from kernel_proc.ipc.loop import TrioLoop
from logos_sockets.drain import DrainSocket


class TrioRequests:
    """Serve one ROUTER. Attach the socket first; `run` and the loop's `run` must be running."""

    def __init__(
        self,
        name: str,
        instance: bytes,
        routes: Mapping[str, Route],
        *,
        consumers: Consumers | None = None,
        allowed_uids: frozenset[int] | None = None,
        in_flight: int = 256,
    ) -> None:
        self.server = RequestServer(
            name,
            instance,
            routes,
            self,
            who=consumers.of if consumers is not None else None,
            allowed_uids=allowed_uids,
            in_flight=in_flight,
        )
        self.loop = TrioLoop(name)
        self.socket: DrainSocket | None = None
        self._consumers = consumers
        self._nursery: trio.Nursery | None = None

    def attach(self, socket: zmq.Socket[bytes]) -> DrainSocket:
        """Take ownership of the socket."""
        self.socket = DrainSocket(self.loop, socket, self._on_message, on_unroutable=self._gone)
        return self.socket

    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Run the tasks of requests in progress until cancelled; those requests are then not answered."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def _on_message(self, frames: list[bytes]) -> None:
        assert self.socket is not None
        credentials = self.socket.peer_credentials()
        self.server.receive(frames, credentials.uid if credentials is not None else None)

    def _gone(self, identity: bytes) -> None:
        if self._consumers is not None:
            self._consumers.forget_connection(identity)

    # --- ServerShell ----

    def now(self) -> float:
        """Part of `ServerShell`."""
        return trio.current_time()

    def send(self, frames: Sequence[bytes], /) -> bool:
        """Part of `ServerShell`."""
        assert self.socket is not None
        return self.socket.send(frames)

    def spawn(self, call: Call, begun: Awaitable[Answer] | None, /) -> None:
        """Part of `ServerShell`."""
        if self._nursery is None:
            self.server.failed(call, IpcError(ErrorCode.NOT_READY, "the node is starting"))
            self.server.finished(call)
            return
        self._nursery.start_soon(self._work, call, begun, name=f"ipc {call.request.method}")

    async def _work(self, call: Call, begun: Awaitable[Answer] | None) -> None:
        server = self.server
        try:
            if begun is None and not server.start(call):
                return
            with trio.move_on_at(call.deadline) as scope:
                server.done(call, await (server.work(call) if begun is None else begun))
            if scope.cancelled_caught:
                server.expired(call)
        except Exception as error:  # mapped to one reply by the core
            server.failed(call, error)
        finally:
            server.finished(call)
