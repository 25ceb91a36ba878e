"""Store confirmation: presence queries in batches, by hash (p2p-reliability).

A message is first queried when it is three seconds old, then less and less often until its window ends;
rounds are at least three seconds apart. A round queries all that is due, with a few queries in parallel, so
that the confirmation keeps pace with any number of sends. A message missing from a store is published again
while stores would still accept it. When a store or relay peer appears, every message that is still young is
queried in the next round, and published again even if no store answers: the newcomer lacks it.

While no store of a shard answers, each round asks for the shard's youngest messages only, and the others are
left alone until one answers: thousands may wait so for their whole window.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from mapi_proc.send.ledger import SendLedger
from mapi_proc.send.settings import SendSettings, Timing
from mapi_proc.send.task import ARCHIVE_TIME, REPUBLISH_AGE_NS, SendTask, is_over, next_check

BATCH: Final = 100
"""Most hashes in one query: what servers answer on one page."""
QUERIES_AT_ONCE: Final = 4
_A_TURN: Final = 256
"""Sends that are handled before others get their turn."""


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
        self._silent: dict[int, NoStore] = {}
        """The shards in which no store answered when one was last asked."""
        self._appeared = False
        self._newcomers = False
        self._changed = asyncio.Event()
        self.queries = 0
        self.unanswered = 0
        self.handled = 0
        """How often a send was taken up, to be queried or to end."""

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
        self._appeared = True
        self._query_soon(lambda task: self._is_young(task, now_ns))
        self._changed.set()

    def _query_soon(self, which: Callable[[SendTask], bool]) -> None:
        """Query these sends in the next round."""
        soon = self._last_round + ARCHIVE_TIME
        self._due = [
            (soon if due > soon and which(task) else due, order, task) for due, order, task in self._due
        ]
        heapq.heapify(self._due)

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
        self._newcomers, self._appeared = self._appeared, False
        if self._newcomers and self._silent:
            shards, self._silent = frozenset(self._silent), {}
            self._query_soon(lambda task: task.shard in shards)  # it may be a store: ask for all
        self._last_round = now
        batches = deque(await self._take_due(now))
        while batches:
            asked = [batches.popleft() for _ in range(min(QUERIES_AT_ONCE, len(batches)))]
            self._heard(asked, await asyncio.gather(*map(self._ask, asked)))
            left = [batch for batch in batches if batch[0].shard not in self._silent]
            for batch in batches:
                if (silent := self._silent.get(batch[0].shard)) is not None:
                    self._leave(batch, silent)
                    await asyncio.sleep(0)
            batches = deque(left)

    async def _take_due(self, now: float) -> list[list[SendTask]]:
        """Return what is due, in batches of one shard; end the sends whose window is over."""
        by_shard: dict[int, list[SendTask]] = {}
        taken = 0
        while self._due and self._due[0][0] <= now:
            task = heapq.heappop(self._due)[2]
            taken += 1
            if taken % _A_TURN == 0:
                await asyncio.sleep(0)
            if is_over(task):
                continue
            if (silent := self._silent.get(task.shard)) is not None:
                self._ledger.unasked(task, silent.text)
            if not self._ledger.expire(task):
                by_shard.setdefault(task.shard, []).append(task)
        self.handled += taken
        batches: list[list[SendTask]] = []
        for shard, tasks in by_shard.items():
            # The youngest first: if no store answers, what is asked for must outlive what is left alone.
            tasks.sort(key=_first_attempt, reverse=True)
            if (silent := self._silent.get(shard)) is not None:
                for start in range(BATCH, len(tasks), _A_TURN):
                    self._leave(tasks[start : start + _A_TURN], silent)
                    await asyncio.sleep(0)
                del tasks[BATCH:]
            batches += [tasks[start : start + BATCH] for start in range(0, len(tasks), BATCH)]
        return batches

    async def _ask(self, tasks: list[SendTask]) -> NoStore | None:
        """Query a batch of one shard and judge it. Return why no store could be queried."""
        answer: set[bytes] | NoStore = _OFFLINE
        if self._online:
            self.queries += 1
            answer = await self._presence(tasks[0].shard, [task.message_hash for task in tasks])
        self._judge(tasks, answer)
        if not isinstance(answer, NoStore):
            return None
        self.unanswered += 1
        return answer

    def _heard(self, asked: Sequence[list[SendTask]], answers: Sequence[NoStore | None]) -> None:
        """Note which shards are silent: a query of several that came too fast for a store says nothing."""
        answered = {batch[0].shard for batch, silent in zip(asked, answers, strict=True) if silent is None}
        for batch, silent in zip(asked, answers, strict=True):
            if silent is not None and batch[0].shard not in answered:
                self._silent[batch[0].shard] = silent
        if back := answered & self._silent.keys():
            for shard in back:
                del self._silent[shard]
            self._query_soon(lambda task: task.shard in back)

    def _judge(self, tasks: list[SendTask], answer: set[bytes] | NoStore) -> None:
        """Apply a store's answer. Sends that no store could be queried for are queried again in the next
        round."""
        now, now_ns = self._clock(), self._wall_ns()
        for task in tasks:
            if is_over(task):
                continue
            if isinstance(answer, NoStore):
                self._unasked(task, answer, now_ns)
                when = now + ARCHIVE_TIME
            else:
                again = self._ledger.judge(task, task.message_hash in answer)
                if is_over(task):
                    continue
                if again:
                    self._republish(task)
                when = next_check(task, now)
            self._free_aged(task, now_ns)
            self._push(task, when)

    def _leave(self, tasks: list[SendTask], silent: NoStore) -> None:
        """Leave sends alone while no store of their shard answers: until their payload can go, then until
        their window ends."""
        now, now_ns = self._clock(), self._wall_ns()
        for task in tasks:
            if is_over(task):
                continue
            self._unasked(task, silent, now_ns)
            self._free_aged(task, now_ns)
            left = (REPUBLISH_AGE_NS - (now_ns - task.timestamp)) / 1e9 if task.payload else math.inf
            self._push(task, now + left)

    def _unasked(self, task: SendTask, silent: NoStore, now_ns: int) -> None:
        self._ledger.unasked(task, silent.text)
        if self._newcomers and self._is_young(task, now_ns):
            self._republish(task)

    def _free_aged(self, task: SendTask, now_ns: int) -> None:
        if task.payload and now_ns - task.timestamp >= REPUBLISH_AGE_NS:
            self._ledger.aged(task)


def _first_attempt(task: SendTask) -> float:
    return task.first_attempt
