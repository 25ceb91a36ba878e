"""An asyncio loop in a thread of its own, into which other threads call and wait.

Each blocking client has one. The thread is a daemon: a program may end with its clients open. They are then
closed as far as that takes no longer than `EXIT_SECONDS` (see `_close_all`).

No lock is held anywhere: a lock could be in the hands of another thread at the moment of a fork, or of the
same thread when the garbage collector ends a forgotten client in the middle of it.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, Generic, ParamSpec, TypeVar

from logos_client._process import HomeProcess
from logos_client.exceptions import ClosedError

__all__ = ["EXIT_SECONDS", "Portal", "PortalCall"]

P = ParamSpec("P")
T = TypeVar("T")

EXIT_SECONDS: Final = 3.0
"""How long a program that ends waits for clients that it left open."""


class PortalCall(Generic[T]):
    """Work for the portal's loop; under way once it was given to `Portal.begin`."""

    def __init__(self, portal: Portal, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._portal = portal
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._future: Future[T] = Future()

    def wait(self, timeout: float | None = None) -> T:
        """Its result. Raises what it raised, or TimeoutError while `done` is False; it then goes on."""
        return self._future.result(timeout)

    @property
    def begun(self) -> bool:
        """Whether the loop has begun it."""
        return self._task is not None

    @property
    def done(self) -> bool:
        """Whether there is a result, or an error."""
        return self._future.done()

    def raised(self, error: BaseException) -> bool:
        """Whether `error`, which `wait` raised, is the work's own: not a time limit's, nor Ctrl-C's."""
        return self._future.done() and self._future.exception() is error

    def cancel(self) -> None:
        """Stop the work; nobody wants its result."""
        self._portal.post(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def start(self) -> None:
        """In the loop: begin, once."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())
            self._task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.fail(ClosedError())
        elif (error := task.exception()) is not None:
            self.fail(error)
        else:
            self._portal.forget(self)
            self._future.set_result(task.result())

    def fail(self, error: BaseException) -> None:
        """There will be no result."""
        self._portal.forget(self)
        if not self._future.done():
            self._future.set_exception(error)


class Portal:
    """A loop with its thread, from the moment it is made until `close`."""

    def __init__(self, name: str) -> None:
        """`name`: of the thread, for people."""
        self.home: HomeProcess = HomeProcess()
        self.on_close: Callable[[], Awaitable[None]] | None = None
        """In the loop, first thing when it ends: closes what lives there."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._up = threading.Event()
        self._closing = False
        self._ended = False
        self._calls: set[PortalCall[Any]] = set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self._thread.start()
            self._up.wait()
        except BaseException:  # Ctrl-C; the thread may have come into being or not
            self.begin_close()
            raise

    # -- from other threads ----------------------------------------------------------------------------------

    def call(self, function: Callable[P, Coroutine[Any, Any, T]], *arguments: P.args, **named: P.kwargs) -> T:
        """Run a coroutine function in the loop and wait for its result.

        An interrupted wait (Ctrl-C) cancels it. Raises `ForkedError`, `ClosedError`, and what it raises.
        """
        call: PortalCall[T] = PortalCall(self, lambda: function(*arguments, **named))
        try:
            self.begin(call)
            return call.wait()
        finally:
            if not call.done:
                call.cancel()

    def begin(self, call: PortalCall[Any]) -> None:
        """Begin work in the loop without waiting for it; nothing when it has begun. Raises `ForkedError`,
        `ClosedError`."""
        self.check()
        self._calls.add(call)
        # The thread sets `_ended` before it fails the calls it finds: none can be in between.
        if self._ended or not self.post(call.start):
            call.fail(ClosedError())

    def forget(self, call: PortalCall[Any]) -> None:
        """It has its result."""
        self._calls.discard(call)

    def post(self, callback: Callable[..., object], *arguments: Any) -> bool:
        """Run something in the loop soon; False: it has ended."""
        if self._loop is None:
            return False
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # closed
            return False
        return True

    def check(self) -> None:
        """Raises `ForkedError`, `ClosedError`, or RuntimeError where a call would wait for itself."""
        self.home.check()
        if self._closing:
            raise ClosedError
        if self.inside:
            raise RuntimeError("a blocking call in the client's own thread would wait for itself")

    @property
    def inside(self) -> bool:
        """Whether this is the loop's own thread."""
        return threading.get_ident() == self._thread.ident

    @property
    def open(self) -> bool:
        """Whether nobody has closed it yet."""
        return not self._closing and not self.home.left

    def begin_close(self) -> None:
        """Let it end, without waiting. Any thread may do so, at any time, a fork's too (without effect)."""
        self._closing = True
        # Where there is no event yet, the thread has still to look at `_closing`.
        if not self.home.left and self._stop is not None:
            self.post(self._stop.set)

    def close(self, timeout: float | None = None) -> None:
        """Let it end, and wait until it has, for at most `timeout` seconds. May be called again."""
        self.begin_close()
        if not self.home.left and not self.inside:
            self._thread.join(timeout)

    # -- in the loop's thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        _portals.add(self)
        try:
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._live())
        finally:
            self._ended = True
            for call in list(self._calls):
                call.fail(ClosedError())
            _portals.discard(self)

    async def _live(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._up.set()
        if not self._closing:
            await self._stop.wait()
        if self.on_close is not None:
            await self.on_close()


_portals: set[Portal] = set()


def _close_all() -> None:
    """The program ends: say goodbye, acknowledge what was handled. In a fork these are the parent's, and
    stay as they are, for ever: ending them would reach into its sockets."""
    mine = [portal for portal in list(_portals) if not portal.home.left]
    for portal in mine:
        portal.begin_close()
    deadline = time.monotonic() + EXIT_SECONDS
    for portal in mine:
        portal.close(max(0.0, deadline - time.monotonic()))


atexit.register(_close_all)
