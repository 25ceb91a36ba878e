"""Requests that wait for their replies, with one timer for all of their deadlines."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final, NamedTuple

from ipc_schema.errors import IpcError
from ipc_schema.frames import Reply
from logos_client._connection_types import late

_NEVER: Final = math.inf


class _Waiting(NamedTuple):
    future: asyncio.Future[Reply]
    deadline: float
    method: str


class RequestsInFlight:
    """The futures of requests, by correlation id.

    A timer for each request would cost as much as encoding it, and nearly all are answered in time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[bytes, _Waiting] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = _NEVER
        """When the timer ends."""

    def add(self, correlation_id: bytes, method: str, deadline: float) -> asyncio.Future[Reply]:
        """Return a future that ends with the reply (`take`), or with `deadline_exceeded`."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting[correlation_id] = _Waiting(future, deadline, method)
        if deadline < self._due:
            self._arm(deadline)
        return future

    def take(self, correlation_id: bytes) -> asyncio.Future[Reply] | None:
        """Remove a request and return its future; None if it waits no longer."""
        waiting = self._waiting.pop(correlation_id, None)
        return None if waiting is None or waiting.future.done() else waiting.future

    def fail(self, reason: Callable[[], IpcError]) -> None:
        """Fail all requests, each with an error of its own."""
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            if not one.future.done():
                one.future.set_exception(reason())

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, deadline: float) -> None:
        self.close()
        self._due = deadline
        self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        now = max(self._loop.time(), self._due)  # a loop's timers may end a little early
        self._timer, self._due = None, _NEVER
        for correlation_id, one in list(self._waiting.items()):
            if one.deadline <= now:
                del self._waiting[correlation_id]
                if not one.future.done():
                    one.future.set_exception(late(one.method))
        if self._waiting:
            self._arm(min(one.deadline for one in self._waiting.values()))
