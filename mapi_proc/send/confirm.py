"""Store confirmation: presence queries in batches, by hash (p2p-reliability).

A message is first queried when it is three seconds old, then less and less often until its window ends;
rounds are at least three seconds apart. A round queries all that is due, with a few queries in parallel, so
that the confirmation keeps pace with any number of sends; it stops early if no store answers. A message
missing from a store is published again while stores would still accept it. When a store or relay peer
appears, every message that is still young is queried in the next round, and published again even if no
store answers: the newcomer lacks it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from mapi_proc.send.ledger import SendLedger
from mapi_proc.send.settings import SendSettings, Timing
from mapi_proc.send.task import ARCHIVE_TIME, REPUBLISH_AGE_NS, SendTask, is_over, next_check

BATCH: Final = 100
"""Most hashes in one query: what servers answer on one page."""
QUERIES_AT_ONCE: Final = 4


class NoStore(NamedTuple):
    """No store could be queried now."""

    text: str


class Presence(Protocol):
    """Queries a store."""

    async def __call__(self, shard: int, hashes: Sequence[bytes], /) -> set[bytes] | NoStore:
        """Return which of at most `BATCH` messages a store has."""


_OFFLINE: Final = NoStore("the kernel is away")


class ConfirmLoop:
    """The sends that have propagated and await a store's confirmation."""

    def __init__(
        self,
        presence: Presence,
        ledger: SendLedger,
        settings: SendSettings,
        timing: Timing,
        republish: Callable[[SendTask], None],
    ) -> None:
        self._presence = presence
        self._ledger = ledger
        self._window = settings.window
        self._clock = timing.clock
        self._wall_ns = timing.wall_ns
        self._republish = republish
        self._due: list[tuple[float, int, SendTask]] = []
        self._order = 0
        self._last_round = float("-inf")
        self._online = False
        self._unreachable = _OFFLINE
        self._appeared = False
        self._newcomers = False
        self._changed = asyncio.Event()
        self.queries = 0
        self.unanswered = 0

    def __len__(self) -> int:
        return len(self._due)

    def add(self, task: SendTask) -> None:
        """Take over a send that has propagated."""
        self._push(task, next_check(task, self._clock()))
        if self._due[0][2] is task:  # otherwise the loop already waits for an earlier one
            self._changed.set()

    def set_online(self, online: bool) -> None:
        """Set whether the kernel can be asked."""
        self._online = online
        self._changed.set()

    def peers_appeared(self) -> None:
        """Handle a new store or relay peer: it lacks what was published before."""
        now_ns = self._wall_ns()
        soon = self._last_round + ARCHIVE_TIME
        self._appeared = True
        self._due = [
            (min(due, soon) if self._is_young(task, now_ns) else due, order, task)
            for due, order, task in self._due
        ]
        heapq.heapify(self._due)
        self._changed.set()

    @staticmethod
    def _is_young(task: SendTask, now_ns: int) -> bool:
        """Return whether it may still be published again for a store's sake."""
        return bool(task.payload) and not is_over(task) and now_ns - task.timestamp < REPUBLISH_AGE_NS

    def _push(self, task: SendTask, when: float) -> None:
        # The window's end counts too, so that the final event is on time even if no store can be queried.
        self._order += 1
        heapq.heappush(self._due, (min(when, task.first_attempt + self._window), self._order, task))

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            self._changed.clear()
            await self._round()
            await self._wait()

    async def _wait(self) -> None:
        delay: float | None = None
        if self._due:
            now = self._clock()
            delay = max(0.0, self._due[0][0] - now, self._last_round + ARCHIVE_TIME - now)
        try:
            async with asyncio.timeout(delay):
                await self._changed.wait()
        except TimeoutError:
            return
        # A new send is never due at once, so continue waiting, for the new earliest one.

    async def _round(self) -> None:
        now = self._clock()
        if not self._due or self._due[0][0] > now or now < self._last_round + ARCHIVE_TIME:
            return
        self._last_round = now
        self._newcomers, self._appeared = self._appeared, False
        batches = self._take_due(now)
        for start in range(0, len(batches), QUERIES_AT_ONCE):
            answers = await asyncio.gather(*map(self._ask, batches[start : start + QUERIES_AT_ONCE]))
            if not any(answers):
                for batch in batches[start + QUERIES_AT_ONCE :]:
                    self._judge(batch, self._unreachable)
                return

    def _take_due(self, now: float) -> list[list[SendTask]]:
        """Return what is due, in batches of one shard; end the sends whose window is over."""
        by_shard: dict[int, list[SendTask]] = {}
        while self._due and self._due[0][0] <= now:
            task = heapq.heappop(self._due)[2]
            if is_over(task):
                continue
            if self._ledger.expire(task):
                continue
            by_shard.setdefault(task.shard, []).append(task)
        return [
            tasks[start : start + BATCH]
            for tasks in by_shard.values()
            for start in range(0, len(tasks), BATCH)
        ]

    async def _ask(self, tasks: list[SendTask]) -> bool:
        """Query a batch and judge it. Return False if no store could be queried."""
        answer: set[bytes] | NoStore = _OFFLINE
        if self._online:
            self.queries += 1
            answer = await self._presence(tasks[0].shard, [task.message_hash for task in tasks])
        if isinstance(answer, NoStore):
            self.unanswered += 1
            self._unreachable = answer
        self._judge(tasks, answer)
        return not isinstance(answer, NoStore)

    def _judge(self, tasks: list[SendTask], answer: set[bytes] | NoStore) -> None:
        """Apply a store's answer.

        Sends that no store could be queried for stay as they are until the next round.
        """
        now, now_ns = self._clock(), self._wall_ns()
        for task in tasks:
            if is_over(task):
                continue
            if isinstance(answer, NoStore):
                self._ledger.unasked(task, answer.text)
                when = now + ARCHIVE_TIME
                if self._newcomers and self._is_young(task, now_ns):
                    self._republish(task)
            else:
                again = self._ledger.judge(task, task.message_hash in answer)
                if is_over(task):
                    continue
                if again:
                    self._republish(task)
                when = next_check(task, now)
            if task.payload and now_ns - task.timestamp >= REPUBLISH_AGE_NS:
                self._ledger.aged(task)
            self._push(task, when)
