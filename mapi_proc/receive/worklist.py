"""Work that is retried until it succeeds: what is due, how long a failure backs off, and the wait itself.

Used by catch-up and history.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

from ipc_schema.backoff import retry_delay

_RETRY_S: Final = 2.0
_RETRY_MAX_S: Final = 60.0
_LEAST_WAIT_S: Final = 0.05


class WorkVerdict(Enum):
    """Outcome of an attempt."""

    DONE = 1
    FAILED = 2
    """Retry after a back-off that grows with each failure."""
    LATER = 3
    """Retry at the `next_attempt` that the attempt has set."""


@dataclass(slots=True, eq=False, kw_only=True)
class Work:
    """A piece of work, compared by identity. `next_attempt` is on the running clock."""

    attempts: int = 0
    """Failed attempts since the last success."""
    next_attempt: float = 0.0


W = TypeVar("W", bound=Work)


class Worklist(Generic[W]):
    """The open pieces, oldest first, and the loop that works them off one after the other while online.

    A piece may be removed at any time, even while it is attempted; its outcome is ignored then.
    """

    def __init__(self, attempt: Callable[[W], Awaitable[WorkVerdict]], clock: Callable[[], float]) -> None:
        """`attempt` must not raise for kernel or network failures.

        `clock` returns seconds of running time.
        """
        self._attempt = attempt
        self._clock = clock
        self._items: dict[W, None] = {}
        self._changed = asyncio.Event()
        self._online = False

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[W]:
        return iter(tuple(self._items))

    def __contains__(self, work: object) -> bool:
        return work in self._items

    def add(self, work: W) -> None:
        """Add a piece, due at its `next_attempt`."""
        self._items[work] = None
        self._changed.set()

    def remove(self, work: W) -> None:
        """Remove a piece that is no longer wanted. No-op if it is not in the list."""
        self._items.pop(work, None)

    def set_online(self, online: bool) -> None:
        """Set whether attempts can be made at all."""
        self._online = online
        self._changed.set()

    def wake(self, which: Callable[[W], bool] = lambda _work: True) -> None:
        """Retry waiting pieces now; one that is being attempted is retried at once if this attempt fails."""
        for work in self._items:
            if which(work):
                work.next_attempt = 0.0
        self._changed.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._changed.clear()
            now = self._clock()
            for work in self:
                if self._online and work.next_attempt <= now and work in self._items:
                    await self._try(work)
            try:
                async with asyncio.timeout(self._wait()):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _wait(self) -> float | None:
        if not self._items or not self._online:
            return None
        return max(_LEAST_WAIT_S, min(work.next_attempt for work in self._items) - self._clock())

    async def _try(self, work: W) -> None:
        work.attempts += 1
        work.next_attempt = math.inf
        match await self._attempt(work):
            case WorkVerdict.DONE:
                self.remove(work)
            case WorkVerdict.LATER:
                work.attempts = 0
            case WorkVerdict.FAILED if work.next_attempt > 0.0:  # otherwise it was woken meanwhile
                work.next_attempt = self._clock() + retry_delay(work.attempts, _RETRY_S, 1.5, _RETRY_MAX_S)
