"""Serve requests on asyncio: the shell around `ipc_schema.server` for each ROUTER of the Messaging API."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import zmq

from ipc_schema.server import Answer, Call, RequestServer, Route
from ipc_schema.server_client import Client
from logos_sockets import TICK, Door, MemoryWatch
from logos_sockets.drain import DrainSocket


@dataclass(frozen=True, slots=True)
class Hooks:
    """Callbacks for the owner of a ROUTER with clients.

    `who`: the client that said hello on a connection. `gone`: the connection has ended. `writable`: it takes
    messages again.
    """

    who: Callable[[bytes], Client | None]
    gone: Callable[[bytes], None]
    writable: Callable[[bytes], None]


class AsyncRequests:
    """Owns one ROUTER socket and serves it. Must be created on a running loop."""

    def __init__(
        self,
        name: str,
        socket: zmq.Socket[bytes],
        instance: bytes,
        routes: Mapping[str, Route],
        *,
        hooks: Hooks | None = None,
        allowed_uids: frozenset[int] | None = None,
        in_flight: int = 256,
    ) -> None:
        self.server = RequestServer(
            name,
            instance,
            routes,
            self,
            who=hooks.who if hooks is not None else None,
            allowed_uids=allowed_uids,
            in_flight=in_flight,
        )
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self.socket = DrainSocket(
            self._loop,
            socket,
            self._receive,
            on_unroutable=hooks.gone if hooks is not None else None,
            on_writable=hooks.writable if hooks is not None else None,
        )

    def _receive(self, frames: list[bytes]) -> None:
        socket = self.socket
        credentials = socket.peer_credentials()
        uid = credentials.uid if credentials is not None else None
        self.server.receive(frames, uid, socket.peer_descriptor())

    async def close(self) -> None:
        """Cancel the requests in flight and close the socket."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.socket.close()

    # --- for the server ---

    def now(self) -> float:
        """See `ServerShell`."""
        return self._loop.time()

    def send(self, frames: Sequence[bytes], /) -> bool:
        """See `ServerShell`."""
        return self.socket.send(frames)

    def spawn(self, call: Call, begun: Awaitable[Answer] | None, /) -> None:
        """See `ServerShell`. A Future needs no task to wait for it."""
        if isinstance(begun, asyncio.Future):
            timer = self._loop.call_at(call.deadline, self._expire, call, begun)
            begun.add_done_callback(functools.partial(self._begun_done, call, timer))
            return
        task = self._loop.create_task(self._work(call, begun))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _expire(self, call: Call, begun: asyncio.Future[Answer]) -> None:
        if begun.cancel():
            self.server.expired(call)
            self.server.finished(call)

    def _begun_done(self, call: Call, timer: asyncio.TimerHandle, begun: asyncio.Future[Answer]) -> None:
        timer.cancel()
        if begun.cancelled():
            return  # by `_expire`
        server, error = self.server, begun.exception()
        if isinstance(error, Exception):
            server.failed(call, error)
        elif error is None:
            server.done(call, begun.result())
        server.finished(call)

    async def _work(self, call: Call, begun: Awaitable[Answer] | None) -> None:
        server = self.server
        try:
            if begun is None and not server.start(call):
                return
            try:
                async with asyncio.timeout_at(call.deadline) as budget:
                    result = await (server.work(call) if begun is None else begun)
            except TimeoutError as late:
                if not budget.expired():  # of something inside, whose cause must not be lost
                    server.failed(call, late)
                else:
                    server.expired(call)
                return
            server.done(call, result)
        except Exception as error:  # mapped to one answer by the core
            server.failed(call, error)
        finally:
            server.finished(call)


class DoorKeeper:
    """Admits clients at the doors of some sockets, given in the same order. Create it on a running loop."""

    def __init__(self, doors: Sequence[Door], sockets: Sequence[DrainSocket]) -> None:
        self._doors = doors
        self._sockets = sockets
        self._memory = MemoryWatch(doors)
        self._loop = asyncio.get_running_loop()
        self._watched: dict[Door, int] = {}
        self._soon: dict[Door, asyncio.TimerHandle] = {}
        self._timer = self._loop.call_later(0, self._tick)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK, self._tick)
        self._memory.step(self._loop.time())
        for door, socket in zip(self._doors, self._sockets, strict=True):
            self._step(door)
            socket.heard = door.heard.add if door.heard is not None else None

    def _step(self, door: Door) -> None:
        # The descriptor may go to libzmq in this step, and its number to anything after it.
        self._unwatch(door)
        door.step(self._loop.time())
        descriptor = door.fileno
        if descriptor is not None:
            self._watched[door] = descriptor
            self._loop.add_reader(descriptor, self._step, door)
        elif door.pause < TICK:
            self._soon[door] = self._loop.call_later(door.pause, self._step, door)

    def _unwatch(self, door: Door) -> None:
        if (timer := self._soon.pop(door, None)) is not None:
            timer.cancel()
        descriptor = self._watched.pop(door, None)
        if descriptor is not None:
            self._loop.remove_reader(descriptor)

    def close(self) -> None:
        """Admit no further client. Closes the doors too."""
        self._timer.cancel()
        for door in self._doors:
            self._unwatch(door)
            door.close()
