"""Serve requests on asyncio: the shell around `ipc_schema.server` for each ROUTER of the Messaging API."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import zmq

from ipc_schema.server import Answer, Call, RequestServer, Route
from ipc_schema.server_client import Client
from logos_sockets import TICK, Door, MemoryWatch
from logos_sockets.drain import DrainSocket

_LOOK_EVERY: Final = 0.05
"""Seconds between two looks for answers whose time is over."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Hooks:
    """Callbacks for the owner of a ROUTER with clients.

    `who`: the client that said hello on a connection. `gone`: the connection has ended. `writable`: it takes
    messages again.
    """

    who: Callable[[bytes], Client | None]
    gone: Callable[[bytes], None]
    writable: Callable[[bytes], None]


class LaterAnswer:
    """The answer to a request whose result comes with a future, for which no task has to wait."""

    def __init__(self, result: asyncio.Future[_T], reply: Callable[[_T], Answer]) -> None:
        self.result: asyncio.Future[Any] = result
        self.reply = reply

    def __await__(self) -> Generator[Any, None, Answer]:
        # Shielded: who gives up this request must not cancel what others wait for.
        return self.reply((yield from asyncio.shield(self.result)))


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
        self._later: dict[asyncio.Future[Any], Call] = {}
        self._look: asyncio.TimerHandle | None = None
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
        if self._look is not None:
            self._look.cancel()
        self.socket.close()

    # --- for the server ---

    def now(self) -> float:
        """See `ServerShell`."""
        return self._loop.time()

    def send(self, frames: Sequence[bytes], /) -> bool:
        """See `ServerShell`."""
        return self.socket.send(frames)

    def spawn(self, call: Call, begun: Awaitable[Answer] | None, /) -> None:
        """See `ServerShell`."""
        if isinstance(begun, LaterAnswer):
            self._later[begun.result] = call
            begun.result.add_done_callback(functools.partial(self._answer_later, call, begun.reply))
            if self._look is None:
                self._look = self._loop.call_later(_LOOK_EVERY, self._look_for_late)
            return
        task = self._loop.create_task(self._work(call, begun))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _look_for_late(self) -> None:
        """Answer the requests whose budget is over. One timer for all: one for each would cost more than the
        rest of the answer."""
        now, self._look = self._loop.time(), None
        for result, call in list(self._later.items()):
            if call.deadline <= now and not result.done():
                del self._later[result]
                self.server.expired(call)
                self.server.finished(call)
        if self._later:
            self._look = self._loop.call_later(_LOOK_EVERY, self._look_for_late)

    def _answer_later(self, call: Call, reply: Callable[[Any], Answer], result: asyncio.Future[Any]) -> None:
        error = None if result.cancelled() else result.exception()
        if self._later.pop(result, None) is None:
            return  # its budget was over
        if isinstance(error, Exception):
            self.server.failed(call, error)
        elif error is None and not result.cancelled():
            self.server.done(call, reply(result.result()))
        self.server.finished(call)

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
