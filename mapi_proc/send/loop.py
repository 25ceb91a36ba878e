"""The send loop: decides when accepted sends are attempted.

The effect of an attempt is the ledger's business. The loop owns timing (when the next attempt is due), the
number of attempts in flight, and order: FIFO within an app, round robin between apps, first attempts before
retries. Propagated sends are handed to the confirmation (`confirm`).
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from typing import Any, Final, Protocol

from mapi_proc.send.confirm import ConfirmLoop, Presence
from mapi_proc.send.fairness import FairQueue
from mapi_proc.send.ledger import SendLedger
from mapi_proc.send.rate import RateLimiter
from mapi_proc.send.settings import SendSettings, Timing
from mapi_proc.send.task import Attempt, Concluded, Outcome, SendState, SendTask, is_over


class Publish(Protocol):
    """One round through the processors for several sends."""

    def __call__(self, attempts: Sequence[Attempt], concluded: Concluded, /) -> Awaitable[None]:
        """Call `concluded` once for each as soon as its outcome is known; one that takes long does not delay
        the others'. Never raises for kernel or network failures."""


AT_ONCE: Final = 64
"""Most sends that are attempted together, and payload bytes: the kernel serves nothing else meanwhile."""
_AT_ONCE_BYTES: Final = 1 << 20

_RETRY_SHARE: Final = 4
"""While first attempts wait, every n-th slot goes to a retry, so that neither starves."""


class SendLoop:
    """Runs the attempts and store queries of all sends in the ledger."""

    def __init__(
        self,
        ledger: SendLedger,
        publish: Publish,
        presence: Presence,
        limiter: RateLimiter,
        settings: SendSettings,
        timing: Timing,
    ) -> None:
        self._ledger = ledger
        self._publish = publish
        self._limiter = limiter
        self._timing = timing
        self._in_flight = settings.in_flight
        self._parked = FairQueue()
        self._unannounced: deque[SendTask] = deque()
        """Parked sends whose app does not know yet that the rate limit holds them back."""
        self._due: list[tuple[float, int, SendTask]] = []
        self._order = 0
        self._running = 0
        self._retries = 0
        self._online = False
        self._group: asyncio.TaskGroup | None = None
        self._begun: list[SendTask] = []
        """What the next `launch` attempts."""
        self._changed = asyncio.Event()
        self.confirm = ConfirmLoop(presence, ledger, settings, timing, self._republish)

    def accepted(self, task: SendTask, *, resumed: bool = False) -> None:
        """Attempt, retry or confirm a send that the ledger has taken over. `resumed`: it is from before a
        restart, and what was told of it then is not told again."""
        if task.state is SendState.PARKED:
            self._parked.push(task)
            if self._limiter.limited and not resumed:
                self._unannounced.append(task)
            self._changed.set()
        elif task.state is SendState.PROPAGATED:
            self.confirm.add(task)
        else:
            self._schedule(task)

    @property
    def runs(self) -> bool:
        return self._group is not None

    @property
    def ready(self) -> bool:
        """Whether attempts are made: the loop runs, and the kernel can be asked."""
        return self.runs and self._online

    def reserve(self) -> bool:
        """Take the place of an attempt for a send that is on its way to the disk; `begin_reserved` or
        `release` follows. False if others come first, or the attempt cannot be made soon."""
        if not self.ready or self._limiter.limited:
            return False
        if self._running >= self._in_flight or self._parked.peek() is not None:
            return False
        if self._due and self._due[0][0] <= self._timing.clock():
            return False
        self._running += 1
        return True

    def begin_reserved(self, task: SendTask) -> None:
        """Make the first attempt, which is on disk, with the next `launch`, while `ready`. The ledger has
        taken the send over."""
        self._ledger.begin(task)
        self._begun.append(task)

    def launch(self) -> None:
        """Attempt what was begun, together. Retries wait for no disk: that of first attempts may be full."""
        begun, self._begun = self._begun, []
        for tasks in _parts([task for task in begun if task.message_hash]):
            # Counted at once, not in the task: until that runs, a store's answer may end one of them.
            self._spawn(self._attempt(self._ledger.attempt(tasks)))
        for tasks in _parts([task for task in begun if not task.message_hash]):
            self._spawn(self._attempt_first(tasks))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._group is not None, "ready"
        self._group.create_task(work)

    def release(self) -> None:
        """Give a reserved place back."""
        self._running -= 1
        self._changed.set()

    def set_online(self, online: bool) -> None:
        """Set whether the kernel can be asked. While it cannot, no attempt is made."""
        self._online = online
        self.confirm.set_online(online)
        self._changed.set()

    def wake(self) -> None:
        """Handle new peers: attempt waiting retries now, and publish unconfirmed sends once more."""
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
        """Serve until cancelled. Attempts in flight stay as they are on disk."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.confirm.run(), name="confirm")
            self._group = group
            try:
                while True:
                    self._changed.clear()
                    if self._online:
                        self._begin_due()
                        self.launch()
                    else:
                        self._expire_waiting()
                    await self._wait()
            finally:
                self._group = None

    def _begin_due(self) -> None:
        now, limited = self._timing.clock(), False
        while self._running < self._in_flight:
            retry = self._next_retry(now)
            first = None if limited else self._parked.peek()
            if retry is not None and (first is None or self._retries * _RETRY_SHARE < self._in_flight):
                heapq.heappop(self._due)
                self._retries += 1
                self._begin(retry)
            elif first is None:
                if not limited:
                    self._unannounced.clear()
                return
            elif self._limiter.admit(self._timing.steady_ns() / 1e9):
                self._parked.pop()
                self._begin(first)
                while self._unannounced and self._unannounced[0].state is not SendState.PARKED:
                    self._unannounced.popleft()
            else:
                limited = True
                self._announce_queued()

    def _announce_queued(self) -> None:
        while self._unannounced:
            task = self._unannounced.popleft()
            if task.state is SendState.PARKED:
                self._ledger.queued(task)

    def _next_retry(self, now: float) -> SendTask | None:
        """Return the retry that is due and still worth making, left in the heap."""
        while self._due and self._due[0][0] <= now:
            task = self._due[0][2]
            # Skip one that is final, or whose payload is gone: a store has it by now, or it is too old for
            # one.
            if not is_over(task) and task.payload and not self._ledger.expire(task):
                return task
            heapq.heappop(self._due)
        return None

    def _begin(self, task: SendTask) -> None:
        self._running += 1
        self.begin_reserved(task)

    def _expire_waiting(self) -> None:
        """End attempted sends whose window runs out while the kernel is away."""
        kept = [entry for entry in self._due if not is_over(entry[2]) and not self._ledger.expire(entry[2])]
        if len(kept) != len(self._due):
            self._due = kept
            heapq.heapify(self._due)

    async def _wait(self) -> None:
        delay: float | None = None
        if not self._online:
            delay = 1.0 if self._due else None
        elif self._running < self._in_flight:
            waits = [self._due[0][0] - self._timing.clock()] if self._due else []
            if self._parked.peek() is not None:
                waits.append(self._limiter.next_epoch(self._timing.steady_ns() / 1e9))
            delay = max(0.0, min(waits)) if waits else None
        try:
            async with asyncio.timeout(delay):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _attempt(self, attempts: Sequence[Attempt]) -> None:
        await self._publish(attempts, self._concluded)

    async def _attempt_first(self, tasks: Sequence[SendTask]) -> None:
        await self._ledger.fix(tasks)
        await self._attempt(self._ledger.attempt(tasks))

    def _concluded(self, task: SendTask, outcome: Outcome) -> None:
        self._running -= 1
        self._retries -= task.attempts > 1
        if self._due or self._parked:
            self._changed.set()
        was = task.state
        self._ledger.conclude(task, outcome)
        if task.state is SendState.RETRY:
            self._schedule(task)
        elif task.state is SendState.PROPAGATED is not was:
            self.confirm.add(task)

    def _republish(self, task: SendTask) -> None:
        task.next_attempt = self._timing.clock()
        self._schedule(task)


def _parts(tasks: Sequence[SendTask]) -> Iterator[Sequence[SendTask]]:
    """Split sends into those that are attempted together."""
    first = size = 0
    for number, task in enumerate(tasks):
        if number > first and (number - first >= AT_ONCE or size + len(task.payload) > _AT_ONCE_BYTES):
            yield tasks[first:number]
            first, size = number, 0
        size += len(task.payload)
    if tasks:
        yield tasks[first:]
