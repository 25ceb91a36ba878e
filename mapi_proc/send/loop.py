"""The send loop: takes accepted sends through the state machine until each has its fate.

A shell around `task`: it decides nothing about outcomes. What it owns is time (when is the next attempt due),
the bounds (how many attempts are under way, how much is accepted and not yet settled), and order (first
accepted, first attempted). What has propagated is handed to the confirmation (`confirm`).
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from ipc_schema.errors import ErrorCode, IpcError
from mapi_proc.send.confirm import ConfirmLoop, Presence
from mapi_proc.send.rate import RateLimiter
from mapi_proc.send.task import (
    SEND_WINDOW,
    Outcome,
    SendTask,
    State,
    attempt,
    cancel,
    conclude,
    expire,
    is_over,
)

__all__ = ["SendLoop", "SendStore"]


class SendStore(Protocol):
    """Where the fate of a send is written and told."""

    async def attempting(self, task: SendTask) -> None:
        """On the first attempt: fix timestamp and message hash, and return when they are written."""
        ...

    async def publish(self, task: SendTask, force: bool) -> Outcome:
        """One round through the processors; never raises for what a kernel or network can do."""
        ...

    def retrying(self, task: SendTask, window_used: float) -> None:
        """The task waits for another attempt; `window_used` seconds of its window are gone."""
        ...

    def propagated(self, task: SendTask, window_used: float) -> None:
        """It has propagated, for the first time: write and tell."""
        ...

    def finished(self, task: SendTask) -> None:
        """The task is final: write it and tell the app, in one transaction."""
        ...


class SendLoop:
    """All sends of one MAPI that are accepted and not final.

    `clock` is seconds of running time, `wall_ns` the wall clock, `steady_ns` the one by which the rate limit
    counts epochs, `jitter` gives 0..1. At most `in_flight` attempts run at once. `max_tasks` and `max_bytes`
    bound what waits; beyond them `accept` raises `busy`.
    `presence` asks stores; `reliability` says whether anything is confirmed at all.
    """

    def __init__(
        self,
        store: SendStore,
        *,
        clock: Callable[[], float],
        wall_ns: Callable[[], int],
        steady_ns: Callable[[], int] | None = None,
        jitter: Callable[[], float],
        presence: Presence,
        reliability: bool,
        limiter: RateLimiter,
        window: float = SEND_WINDOW,
        in_flight: int = 64,
        max_tasks: int = 10_000,
        max_bytes: int = 256 << 20,
    ) -> None:
        self._store = store
        self._clock = clock
        self._steady_ns = steady_ns or wall_ns
        self._jitter = jitter
        self._reliability = reliability
        self._limiter = limiter
        self._window = window
        self._in_flight = in_flight
        self._max_tasks = max_tasks
        self._max_bytes = max_bytes
        self._tasks: dict[tuple[bytes, bytes], SendTask] = {}
        self._bytes = 0
        self._parked: deque[SendTask] = deque()
        self._due: list[tuple[float, int, SendTask]] = []
        self._order = 0
        self._running = 0
        self._online = False
        self._changed = asyncio.Event()
        self.confirm = ConfirmLoop(
            presence,
            clock=clock,
            wall_ns=wall_ns,
            window=window,
            finished=self._finish,
            republish=self._republish,
            aged=self._aged,
        )

    # -- what waits --------------------------------------------------------------------------------------

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
        """Take over a send that is on disk. Its bounds were checked with `check_room`."""
        self._hold(task)
        self._parked.append(task)
        self._changed.set()

    def _hold(self, task: SendTask) -> None:
        self._tasks[task.scope, task.request_id] = task
        self._bytes += len(task.payload)

    def resume(self, task: SendTask, window_used: float) -> None:
        """Take over a send from the database after a restart of MAPI."""
        now = self._clock()
        if not task.attempts:
            self.accept(task)
            return
        task.first_attempt = now - window_used
        task.transmitted = True  # if it was under way, its outcome is unknown
        self._hold(task)
        if task.state is State.PROPAGATED:
            task.propagated_at = now - window_used
            self.confirm.add(task)
        else:
            task.state = State.RETRY
            task.next_attempt = 0.0
            self._schedule(task)

    def cancel(self, scope: bytes, request_id: bytes) -> bool:
        """Cancel a send that was not attempted yet. False: too late, or there is no such send."""
        task = self._tasks.get((scope, request_id))
        if task is None or not cancel(task):
            return False
        self._finish(task)
        return True

    def set_online(self, online: bool) -> None:
        """Whether the kernel can be asked at all. While it cannot, no attempt is made."""
        self._online = online
        self.confirm.set_online(online)
        self._changed.set()

    def wake(self) -> None:
        """Peers appeared: what waits for its next round is attempted now, and what is not confirmed yet goes
        out once more."""
        self.confirm.peers_appeared()
        self._due = [(0.0, order, task) for _, order, task in self._due]
        heapq.heapify(self._due)
        self._changed.set()

    def _schedule(self, task: SendTask) -> None:
        self._order += 1
        heapq.heappush(self._due, (task.next_attempt, self._order, task))
        self._changed.set()

    # -- the loop ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled. What is under way when cancelled is left as on disk."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.confirm.run(), name="confirm")
            while True:
                self._changed.clear()
                now = self._clock()
                if self._online:
                    self._begin_due(group, now)
                else:
                    self._expire_waiting(now)
                await self._wait()

    def _begin_due(self, group: asyncio.TaskGroup, now: float) -> None:
        while self._due and self._running < self._in_flight and self._due[0][0] <= now:
            task = heapq.heappop(self._due)[2]
            if is_over(task) or not task.payload:
                continue  # published again, and found or too old meanwhile
            if expire(task, now, self._window):
                self._finish(task)
            else:
                self._begin(group, task)
        while self._parked and self._running < self._in_flight:
            if self._parked[0].state is not State.PARKED:
                self._parked.popleft()  # cancelled
            elif self._limiter.admit(self._steady_ns() / 1e9):
                self._begin(group, self._parked.popleft())
            else:
                return

    def _begin(self, group: asyncio.TaskGroup, task: SendTask) -> None:
        if task.state is State.PARKED:
            task.state = State.ATTEMPTED  # from here on it cannot be cancelled
        self._running += 1
        group.create_task(self._attempt(task))

    def _expire_waiting(self, now: float) -> None:
        """While the kernel is away, windows of attempted sends still run out."""
        expired = [entry for entry in self._due if expire(entry[2], now, self._window)]
        if expired:
            self._due = [entry for entry in self._due if not is_over(entry[2])]
            heapq.heapify(self._due)
            for _, _, task in expired:
                self._finish(task)

    async def _wait(self) -> None:
        delay: float | None = None
        if not self._online:
            delay = 1.0 if self._due else None
        elif self._running < self._in_flight:
            waits = [self._due[0][0] - self._clock()] if self._due else []
            if self._parked:
                waits.append(self._limiter.next_epoch(self._steady_ns() / 1e9))
            delay = max(0.0, min(waits)) if waits else None
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
        finally:
            self._running -= 1
            self._changed.set()
        if is_over(task):
            return  # found in a store while it was published again
        first = conclude(
            task,
            outcome,
            self._clock(),
            self._jitter(),
            reliability=self._reliability,
            window=self._window,
        )
        used = self._clock() - task.first_attempt
        if first:
            self._store.propagated(task, used)
            if task.state is State.PROPAGATED:
                self.confirm.add(task)
        if is_over(task):
            self._finish(task)
        elif task.state is State.RETRY:
            self._store.retrying(task, used)
            self._schedule(task)

    def _republish(self, task: SendTask) -> None:
        task.next_attempt = self._clock()
        self._schedule(task)

    def _aged(self, task: SendTask) -> None:
        """It will not be published again: its payload need not be kept in memory."""
        self._bytes -= len(task.payload)
        task.payload = b""

    def _finish(self, task: SendTask) -> None:
        if self._tasks.pop((task.scope, task.request_id), None) is not None:
            self._bytes -= len(task.payload)
        self._store.finished(task)
