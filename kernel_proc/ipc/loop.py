"""Run a drain-socket on trio: its callbacks, timers and descriptor, in one task."""

from __future__ import annotations

import heapq
import itertools
import logging
from collections import deque
from collections.abc import Callable

import trio

from kernel_proc.reactor import watching
from logos_process.logs import fields

log = logging.getLogger(__name__)


class _Call:
    """A pending callback."""

    __slots__ = ("callback", "cancelled")

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class TrioLoop:
    """The part of an event loop that `DrainSocket` uses, for one socket. `run` must be running.

    A callback that raises is logged and counted; the others are unaffected.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.errors = 0
        self._soon: deque[_Call] = deque()
        self._timers: list[tuple[float, int, _Call]] = []
        self._serial = itertools.count()
        self._reader: tuple[int, Callable[[], object]] | None = None
        self._wait: trio.CancelScope | None = None

    def call_soon(self, callback: Callable[[], object], /) -> _Call:
        """Call in the next turn of `run`."""
        call = _Call(callback)
        self._soon.append(call)
        if self._wait is not None:
            self._wait.cancel()
        return call

    def call_later(self, delay: float, callback: Callable[[], object], /) -> _Call:
        """Call after `seconds`."""
        call = _Call(callback)
        due = trio.current_time() + delay
        heapq.heappush(self._timers, (due, next(self._serial), call))
        if self._wait is not None and due < self._wait.deadline:
            self._wait.deadline = due
        return call

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> None:
        """Call whenever the descriptor is readable. There is only one."""
        self._reader = fd, callback

    def remove_reader(self, fd: int, /) -> None:  # noqa: ARG002
        self._reader = None
        if self._wait is not None:
            self._wait.cancel()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            reader = self._reader
            with watching(None if reader is None else reader[0], self._read):
                while self._reader is reader:
                    await self._turn()

    async def _turn(self) -> None:
        reader = self._reader
        self._run_due()
        if self._soon or self._reader is not reader:
            await trio.lowlevel.checkpoint()
            return
        # No other code runs between the EAGAIN that ended a drain and the registration in wait_readable.
        deadline = self._timers[0][0] if self._timers else float("inf")
        readable = False
        with trio.CancelScope(deadline=deadline) as self._wait:
            if self._reader is None:
                await trio.sleep_forever()
            else:
                await trio.lowlevel.wait_readable(self._reader[0])
                readable = True
        self._wait = None
        if readable:
            self._read()

    def _read(self) -> None:
        if self._reader is not None:
            self._call(self._reader[1])

    def _run_due(self) -> None:
        soon, self._soon = self._soon, deque()
        for call in soon:
            if not call.cancelled:
                self._call(call.callback)
        now = trio.current_time()
        while self._timers and (self._timers[0][2].cancelled or self._timers[0][0] <= now):
            call = heapq.heappop(self._timers)[2]
            if not call.cancelled:
                self._call(call.callback)

    def _call(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except Exception:
            self.errors += 1
            log.exception("message handler raised", extra=fields(socket=self.name))
