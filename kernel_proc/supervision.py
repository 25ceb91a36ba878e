"""The parts of a node while they run: none of them ends by itself, and the end of one is the end of all.

A part that failed is told with its name; the supervisor then starts a whole node again, and nothing is ever
silently dead.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from logos_process.logs import fields

__all__ = ["SupervisedParts", "leaf"]

log = logging.getLogger(__name__)

E = TypeVar("E", bound=BaseException)


class SupervisedParts:
    """Tasks in a nursery that is cancelled when one of them ends."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.failed: str | None = None
        """The name of the part that ended first."""

    def add(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Have a part run from now on."""
        self._nursery.start_soon(self._run, name, run, name=name)

    async def start(self, name: str, run: Callable[..., Awaitable[None]]) -> None:
        """Have a part run and wait until it says `task_status.started()`. Raises what it raises before."""
        await self._nursery.start(self._run_started, name, run, name=name)

    async def _run(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await run()
        except Exception:  # whatever it is: it must end the node, in good order, and be told
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
        what = "a part failed, the node ends" if failed else "a part ended, the node ends"
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
    """The first exception of one of these kinds, the error itself or inside its groups: a part that works in
    a nursery raises what it raises wrapped."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, (leaf(inner, *kinds) for inner in error.exceptions)), None)
    return error if isinstance(error, kinds) else None
