"""Supervision of the node's parts: none of them ends by itself, and the end of one is the end of all.

A failed part is logged by name; the supervisor then restarts the whole node, so that no part is ever silently
dead.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from logos_process.logs import fields

log = logging.getLogger(__name__)

E = TypeVar("E", bound=BaseException)


class SupervisedParts:
    """Tasks in a nursery that is cancelled when one of them ends."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.failed: str | None = None
        """The name of the part that ended first."""

    def add(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run a part from now on."""
        self._nursery.start_soon(self._run, name, run, name=name)

    async def start(self, name: str, run: Callable[..., Awaitable[None]]) -> None:
        """Run a part, and wait until it calls `task_status.started()`. Raise what it raises before that."""
        await self._nursery.start(self._run_started, name, run, name=name)

    async def _run(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await run()
        except Exception:  # whatever it is, it must be logged and end the node gracefully
            self._ended(name, failed=True)
        else:
            self._ended(name, failed=False)

    async def _run_started(self, name: str, run: Callable[..., Awaitable[None]], *, task_status: Any) -> None:
        status = _Status(task_status)
        try:
            await run(task_status=status)
        except Exception:
            if not status.is_started:
                raise
            self._ended(name, failed=True)
        else:
            self._ended(name, failed=False)

    def _ended(self, name: str, *, failed: bool) -> None:
        what = "a part failed, stopping the node" if failed else "a part ended, stopping the node"
        log.critical(what, exc_info=failed, extra=fields(part=name))
        self.failed = self.failed or name
        self._nursery.cancel_scope.cancel()


class _Status:
    """A task status that remembers whether `started` was called."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.is_started = False

    def started(self, value: object = None) -> None:
        self.is_started = True
        self._inner.started(value)


def leaf(error: BaseException, *kinds: type[E]) -> E | None:
    """Return the first exception of the given kinds: the error itself, or one inside its groups. A part
    that works in a nursery raises wrapped exceptions."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, (leaf(inner, *kinds) for inner in error.exceptions)), None)
    return error if isinstance(error, kinds) else None
