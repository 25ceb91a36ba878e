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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import trio

_LONGEST: Final = 86_400.0
"""Longest sleep in seconds, as in trio's loop: epoll takes no infinite one."""
_AT_ONCE: Final = 32
"""Most descriptors that are found readable at once; the others follow."""


class ReactorClock(trio.abc.Clock):
    """For one `trio.run`. `trio.testing.wait_all_tasks_blocked` does not return under it."""

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._callbacks: dict[int, Callable[[], None]] = {}

    def start_clock(self) -> None:
        """Part of trio's `Clock`."""

    def current_time(self) -> float:
        return time.perf_counter()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Sleep until the deadline or until there is something to do; return how long trio may sleep on."""
        timeout = deadline - time.perf_counter()
        if self._epoll is None or timeout <= 0:
            return timeout
        for descriptor, _ in self._epoll.poll(min(timeout, _LONGEST), _AT_ONCE):
            callback = self._callbacks.get(descriptor)
            if callback is not None:  # else it is trio's, or another callback has ended it
                callback()
        return 0.0  # trio looks again: there may be new deadlines, and tasks that can run

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call `callback` when the descriptor is readable and no task can run. It must not raise."""
        if self._epoll is None:
            self._epoll = _epoll_around_trio()
            if self._epoll is None:
                return
        self._callbacks[descriptor] = callback
        self._epoll.register(descriptor, select.EPOLLIN)

    def unwatch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """End what `watch` began. If the descriptor was closed, its number may already be another one's."""
        if self._epoll is not None and self._callbacks.get(descriptor) == callback:
            del self._callbacks[descriptor]
            with suppress(OSError):
                self._epoll.unregister(descriptor)


def _epoll_around_trio() -> select.epoll | None:
    """Return an epoll that has trio's own one for its first descriptor; None where trio has none."""
    # trio has no public name for it. Without it everything works, by tasks: test_reactor.py would fail.
    manager = trio.lowlevel.current_task()._runner.io_manager  # noqa: SLF001
    inner = getattr(manager, "_epoll", None)
    if inner is None:
        return None
    outer = select.epoll()
    outer.register(inner, select.EPOLLIN)
    return outer


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
