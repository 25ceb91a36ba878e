"""An asyncio loop in a thread of its own, which other threads call and wait for.

Each blocking client has one. The thread is a daemon: a program may exit with clients open. They are then
closed as far as that takes no longer than `EXIT_SECONDS` (see `_close_all`).

No lock is held anywhere: another thread could hold it at the moment of a fork, or the same thread when the
garbage collector closes a forgotten client while it is held.
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

P = ParamSpec("P")
T = TypeVar("T")

EXIT_SECONDS: Final = 3.0
"""How long an exiting program waits for clients that it left open."""


class PortalCall(Generic[T]):
    """Work for the portal's loop; in progress once it was given to `Portal.begin`."""

    def __init__(self, portal: Portal, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._portal = portal
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._future: Future[T] = Future()

    def wait(self, timeout: float | None = None) -> T:
        """Return its result.

        Raises what it raised, or TimeoutError while `done` is False; it continues then.
        """
        return self._future.result(timeout)

    @property
    def begun(self) -> bool:
        """Whether the loop has begun it."""
        return self._task is not None

    @property
    def done(self) -> bool:
        """Whether there is a result or an error."""
        return self._future.done()

    def raised(self, error: BaseException) -> bool:
        """Whether `error`, raised by `wait`, is the work's own rather than a timeout or Ctrl-C."""
        return self._future.done() and self._future.exception() is error

    def cancel(self) -> None:
        """Cancel the work: its result is no longer wanted."""
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
        """Record that there will be no result."""
        self._portal.forget(self)
        if not self._future.done():
            self._future.set_exception(error)


class Portal:
    """A loop with its thread, from creation until `close`."""

    def __init__(self, name: str) -> None:
        """`name`: of the thread, for display."""
        self.home: HomeProcess = HomeProcess()
        self.on_close: Callable[[], Awaitable[None]] | None = None
        """Called in the loop first when it ends: closes what lives there."""
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
        except BaseException:  # Ctrl-C; the thread may or may not have started
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
        """Begin work in the loop without waiting for it. No-op if it has begun.

        Raises `ForkedError`, `ClosedError`.
        """
        self.check()
        self._calls.add(call)
        # The thread sets `_ended` before it fails the remaining calls, so none is missed.
        if self._ended or not self.post(call.start):
            call.fail(ClosedError())

    def forget(self, call: PortalCall[Any]) -> None:
        """Drop a call that has its result."""
        self._calls.discard(call)

    def post(self, callback: Callable[..., object], *arguments: Any) -> bool:
        """Schedule a function in the loop. Return False if it has ended."""
        if self._loop is None:
            return False
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # closed
            return False
        return True

    def check(self) -> None:
        """Raise `ForkedError`, `ClosedError`, or RuntimeError if a call would wait for itself."""
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
        """Whether it has not been closed yet."""
        return not self._closing and not self.home.left

    def begin_close(self) -> None:
        """Let it end, without waiting.

        From any thread at any time, in a forked child too (without effect).
        """
        self._closing = True
        # Without an event yet, the thread has still to check `_closing`.
        if not self.home.left and self._stop is not None:
            self.post(self._stop.set)

    def close(self, timeout: float | None = None) -> None:
        """Let it end, and wait until it has, for at most `timeout` seconds. Idempotent."""
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
    """Close clients at exit: say goodbye, acknowledge what was handled.

    In a forked child these are the parent's and are left alone: closing them would disturb its sockets.
    """
    mine = [portal for portal in list(_portals) if not portal.home.left]
    for portal in mine:
        portal.begin_close()
    deadline = time.monotonic() + EXIT_SECONDS
    for portal in mine:
        portal.close(max(0.0, deadline - time.monotonic()))


atexit.register(_close_all)
