"""Apply the retention policy, in pieces small enough not to block other work."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from ipc_schema.message import MessageDecodeError
from kernel_proc.archive.api import HistoryQuery
from kernel_proc.archive.engine import ArchiveEngine, DatabaseFailed, Totals
from kernel_proc.archive.retention import RetentionClock, excess, kept_seconds
from kernel_proc.archive.settings import ArchiveSettings
from kernel_proc.archive.threads import in_thread
from logos_process.host_clock import boot_ns
from logos_process.logs import fields

log = logging.getLogger(__name__)

AFTER_FAILURE: Final = 60.0
SECOND: Final = 1_000_000_000
_READ_SECONDS: Final = 10.0
_RELEASE_SECONDS: Final = 1.0


class ArchiveUpkeep:
    """Check the limits at start, every `retention_interval`, and whenever a fiftieth of a limit was added."""

    def __init__(
        self,
        engine: ArchiveEngine,
        settings: ArchiveSettings,
        clock: Callable[[], int],
        counters: Counter[str],
        steady: Callable[[], int] = boot_ns,
    ) -> None:
        self._engine = engine
        self._policy = settings.retention
        self._interval = settings.retention_interval
        self._clock = RetentionClock(clock, steady)
        self._counters = counters
        self._limiter = trio.CapacityLimiter(1)
        self._look = trio.Event()
        self._new_messages = self._new_bytes = 0
        self._counted = Totals(0, 0)
        self.messages: int | None = None
        """Number of messages as far as this node knows; None before the first count."""

    @property
    def size(self) -> int | None:
        """Bytes that they take, about: as at the last count, for as many messages as there are now."""
        if self.messages is None:
            return None
        if not self._counted.messages:
            return self._new_bytes
        return self._counted.bytes * self.messages // self._counted.messages

    def grown(self, messages: int, size: int) -> None:
        """Record that messages were stored."""
        self._new_messages += messages
        self._new_bytes += size
        if self.messages is not None:
            self.messages += messages
        policy = self._policy
        if (policy.messages is not None and self._new_messages * 50 > policy.messages) or (
            policy.bytes is not None and self._new_bytes * 50 > policy.bytes
        ):
            self._look.set()

    async def run(self, opened: trio.Event) -> None:
        """Run from the moment the database is open until cancelled."""
        await opened.wait()
        while True:
            self._look = trio.Event()
            self._new_messages = self._new_bytes = 0
            try:
                await self._enforce()
            except DatabaseFailed as error:
                # The writer reports it in the state; a failure here alone is worth a log line.
                self._counters["retention_failures"] += 1
                log.warning("retention", extra=fields(reason=error))
                await trio.sleep(min(AFTER_FAILURE, self._interval))
                continue
            with trio.move_on_after(self._interval):
                await self._look.wait()

    async def _enforce(self) -> None:
        try:
            if await in_thread(self._engine.claim, self._limiter):
                await self._enforce_alone()
            else:
                await self._count()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _RELEASE_SECONDS):
                await in_thread(self._engine.release, self._limiter)

    async def _enforce_alone(self) -> None:
        policy = self._policy
        removed = 0
        now = self._clock.now(newest := await self._end_of_archive(forward=False))
        if policy.seconds is not None:
            removed += await self._remove(None, now - policy.seconds * SECOND)
        totals = self._counted
        if self.messages is None or policy.messages is not None or policy.bytes is not None:
            totals = await self._count()
        oldest = await self._end_of_archive(forward=True)
        span = 0.0 if oldest is None or newest is None else (newest - oldest) / SECOND
        keeps = kept_seconds(policy, totals.messages, totals.bytes, span)
        await in_thread(partial(self._engine.prepare, now, keeps), self._limiter)
        too_many = excess(policy, totals.messages, totals.bytes)
        if too_many:
            removed += await self._remove(too_many, None)
        if removed:
            log.info("retention", extra=fields(removed=removed, policy=policy))

    async def _end_of_archive(self, *, forward: bool) -> int | None:
        """Return the timestamp of the newest message, or of the oldest one; None if there is none."""
        query = HistoryQuery(limit=1, include_data=True, forward=forward)
        page = await in_thread(partial(self._engine.read, query, _READ_SECONDS), self._limiter)
        try:
            message = page.messages[-1].message if page.messages else None
        except MessageDecodeError:
            return None
        return None if message is None else message.timestamp

    async def _count(self) -> Totals:
        totals = await in_thread(self._engine.totals, self._limiter)
        self.messages, self._counted = totals.messages, totals
        return totals

    async def _remove(self, excess: int | None, before: int | None) -> int:
        """Remove the oldest messages, and pause after each step for as long as it took: new messages get at
        least half of the writer's time."""
        removed = 0
        while excess is None or removed < excess:
            left = None if excess is None else excess - removed
            started = time.perf_counter()
            gone = await in_thread(partial(self._engine.remove, left, before), self._limiter)
            removed += gone
            self._counters["removed"] += gone
            if self.messages is not None:
                self.messages -= gone
            if not gone:
                break
            await trio.sleep(time.perf_counter() - started)
        return removed
