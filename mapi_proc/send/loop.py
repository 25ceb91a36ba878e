"""The send loop: takes accepted sends through the state machine until each has its fate.

A shell around `task`: it decides nothing about outcomes. What it owns is time (when is the next attempt due),
the bounds (how many attempts are under way, how much is accepted and not yet settled), and order (first
accepted, first attempted).
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator
from typing import Protocol

from ipc_schema.errors import ErrorCode, IpcError
from mapi_proc.send.task import SEND_WINDOW, Outcome, SendTask, State, attempt, conclude, expire

__all__ = ["SendLoop", "SendStore"]


class SendStore(Protocol):
    """Where the fate of a send is written and told."""

    async def attempting(self, task: SendTask) -> None:
        """On the first attempt: fix timestamp and message hash, and return when they are written."""
        ...

    async def publish(self, task: SendTask, force: bool) -> Outcome:
        """One attempt through the kernel; never raises for what a kernel or network can do."""
        ...

    def retrying(self, task: SendTask, window_used: float) -> None:
        """The task waits for another attempt; `window_used` seconds of its window are gone."""
        ...

    def finished(self, task: SendTask) -> None:
        """The task is final: write it and tell the app, in one transaction."""
        ...


class SendLoop:
    """All sends of one MAPI that are accepted and not final.

    `clock` is seconds of running time, `jitter` gives 0..1. At most `in_flight` attempts run at once.
    `max_tasks` and `max_bytes` bound what waits; beyond them `accept` raises `busy`.
    """

    def __init__(
        self,
        store: SendStore,
        *,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        window: float = SEND_WINDOW,
        in_flight: int = 64,
        max_tasks: int = 10_000,
        max_bytes: int = 256 << 20,
    ) -> None:
        self._store = store
        self._clock = clock
        self._jitter = jitter
        self._window = window
        self._in_flight = in_flight
        self._max_tasks = max_tasks
        self._max_bytes = max_bytes
        self._tasks: dict[tuple[bytes, bytes], SendTask] = {}
        self._bytes = 0
        self._due: list[tuple[float, int, SendTask]] = []
        self._order = 0
        self._running = 0
        self._online = False
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def pending_bytes(self) -> int:
        """Payload bytes of all sends that are not final."""
        return self._bytes

    def pending(self) -> Iterator[SendTask]:
        """The sends that are not final, oldest first."""
        return iter(tuple(self._tasks.values()))

    def check_room(self, size: int) -> None:
        """Raises `busy` when one more send of `size` payload bytes would exceed the bounds."""
        if len(self._tasks) >= self._max_tasks or self._bytes + size > self._max_bytes:
            raise IpcError(
                ErrorCode.BUSY,
                f"{len(self._tasks)} sends ({self._bytes} bytes) wait for the network",
                retry_after_ms=1000,
            )

    def accept(self, task: SendTask) -> None:
        """Take over a send that is on disk (or need not be). Its bounds were checked with `check_room`."""
        self._tasks[task.scope, task.request_id] = task
        self._bytes += len(task.payload)
        self._schedule(task)

    def resume(self, task: SendTask, window_used: float) -> None:
        """Take over a send from the database after a restart of MAPI."""
        if task.attempts:
            task.state = State.RETRY  # if it was under way: its outcome is unknown, so the next is forced
            task.first_attempt = self._clock() - window_used
        task.next_attempt = 0.0
        self.accept(task)

    def set_online(self, online: bool) -> None:
        """Whether the kernel can be asked at all. While it cannot, no attempt is made."""
        self._online = online
        self._changed.set()

    def wake(self) -> None:
        """Peers appeared: what waits for its next round is attempted now."""
        self._due = [(0.0, order, task) for _, order, task in self._due]
        heapq.heapify(self._due)
        self._changed.set()

    def _schedule(self, task: SendTask) -> None:
        self._order += 1
        heapq.heappush(self._due, (task.next_attempt, self._order, task))
        self._changed.set()

    async def run(self) -> None:
        """Serve until cancelled. What is under way when cancelled is left as on disk."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                now = self._clock()
                if not self._online:
                    self._expire_waiting(now)
                else:
                    while self._due and self._running < self._in_flight and self._due[0][0] <= now:
                        task = heapq.heappop(self._due)[2]
                        if expire(task, now, self._window):
                            self._finish(task)
                            continue
                        self._running += 1
                        group.create_task(self._attempt(task))
                await self._wait()

    def _expire_waiting(self, now: float) -> None:
        """While the kernel is away, windows of attempted sends still run out."""
        expired = [entry for entry in self._due if expire(entry[2], now, self._window)]
        if expired:
            self._due = [entry for entry in self._due if not entry[2].state.final]
            heapq.heapify(self._due)
            for _, _, task in expired:
                self._finish(task)

    async def _wait(self) -> None:
        delay: float | None = None
        if self._due and self._online and self._running < self._in_flight:
            delay = max(0.0, self._due[0][0] - self._clock())
        elif self._due and not self._online:
            delay = 1.0
        try:
            async with asyncio.timeout(delay):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _attempt(self, task: SendTask) -> None:
        try:
            if not task.attempts:
                await self._store.attempting(task)
            force = attempt(task, self._clock())
            outcome = await self._store.publish(task, force)
            state = conclude(task, outcome, self._clock(), self._jitter(), self._window)
        finally:
            self._running -= 1
            self._changed.set()
        if state.final:
            self._finish(task)
        else:
            self._store.retrying(task, self._clock() - task.first_attempt)
            self._schedule(task)

    def _finish(self, task: SendTask) -> None:
        if self._tasks.pop((task.scope, task.request_id), None) is not None:
            self._bytes -= len(task.payload)
        self._store.finished(task)
