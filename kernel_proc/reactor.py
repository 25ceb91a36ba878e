"""A clock for trio that calls functions as soon as descriptors are readable, without waking a task.

To wake a task for a small message and to let it wait again costs more than the message: trio's loop turns
twice, and while messages come one at a time its code is cold. trio asks its clock how long it may sleep
whenever no task can run. Here the clock itself sleeps, until trio or what is watched has something to do.

This is a short cut only: what is watched must be waited for by a task, too. The task does the work while
others keep the loop busy, with any other clock (as in most tests), and where there is no epoll.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

import trio

_LONGEST: Final = 86_400.0
"""Longest sleep in seconds, as in trio's loop: epoll takes no infinite one."""
_AT_ONCE: Final = 32
"""Most descriptors that are found readable at once; the others follow."""
_ROUNDS: Final = 8
"""Calls in a row after which trio looks at its own descriptors, whatever else there is."""


class _Trio(NamedTuple):
    """What only trio's loop knows, and has no public names for."""

    epoll: select.epoll
    """One of ours, whose first descriptor is trio's epoll."""
    runnable: Sized
    """The tasks that can run."""
    next_deadline: Callable[[], float]


def _look_into_trio() -> _Trio | None:
    """Return None where trio waits by something else than epoll, or names these parts differently."""
    try:
        runner = trio.lowlevel.current_task()._runner  # noqa: SLF001
        inner, runnable, next_deadline = runner.io_manager._epoll, runner.runq, runner.deadlines.next_deadline  # noqa: SLF001
    except AttributeError:
        return None
    outer = select.epoll()
    outer.register(inner, select.EPOLLIN)
    return _Trio(outer, runnable, next_deadline)


class ReactorClock(trio.abc.Clock):
    """For one `trio.run`. `trio.testing.wait_all_tasks_blocked` does not return under it."""

    def __init__(self) -> None:
        self._trio: _Trio | None = None
        self._callbacks: dict[int, Callable[[], None]] = {}

    def start_clock(self) -> None:
        """Part of trio's `Clock`."""

    def current_time(self) -> float:
        return time.perf_counter()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Sleep until the deadline or until there is something to do; return how long trio may sleep on."""
        if self._trio is None:
            return deadline - time.perf_counter()
        epoll, runnable, next_deadline = self._trio
        for _ in range(_ROUNDS):
            timeout = deadline - time.perf_counter()
            if timeout <= 0:
                return timeout
            called = False
            for descriptor, _ in epoll.poll(min(timeout, _LONGEST), _AT_ONCE):
                callback = self._callbacks.get(descriptor)
                if callback is not None:  # else it is trio's, or another callback has ended it
                    callback()
                    called = True
            # A turn of trio's loop is spared after callbacks that have given it nothing to do.
            if not called or runnable:
                break
            deadline = next_deadline()
        return 0.0

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call `callback` when the descriptor is readable and no task can run. It must not raise.

        What epoll does not take, such as one descriptor more than its limit, is left to its task.
        """
        if self._trio is None:
            self._trio = _look_into_trio()
            if self._trio is None:
                return
        with suppress(OSError):
            self._trio.epoll.register(descriptor, select.EPOLLIN)
            self._callbacks[descriptor] = callback

    def unwatch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """End what `watch` began. If the descriptor was closed, its number may already be another one's."""
        if self._trio is not None and self._callbacks.get(descriptor) == callback:
            del self._callbacks[descriptor]
            with suppress(OSError):
                self._trio.epoll.unregister(descriptor)


@contextmanager
def watching(descriptor: int | None, callback: Callable[[], None]) -> Iterator[None]:
    """Watch a descriptor (None: nothing) while the block runs, if trio has a ReactorClock."""
    clock = trio.lowlevel.current_clock()
    if descriptor is None or not isinstance(clock, ReactorClock):
        yield
        return
    clock.watch(descriptor, callback)
    try:
        yield
    finally:
        clock.unwatch(descriptor, callback)
