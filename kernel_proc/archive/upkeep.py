"""Apply the retention policy, in pieces small enough not to block other work."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from ipc_schema.config.archive import RetentionPolicy
from ipc_schema.message import MessageDecodeError
from kernel_proc.archive.api import HistoryQuery
from kernel_proc.archive.engine import ArchiveEngine, DatabaseFailed, Totals
from kernel_proc.archive.retention import RetentionClock, excess
from kernel_proc.archive.settings import ArchiveSettings
from kernel_proc.archive.threads import in_thread
from logos_process.host_clock import boot_ns
from logos_process.logs import fields

__all__ = ["ArchiveUpkeep"]

log = logging.getLogger(__name__)

CHUNK: Final = 500
"""Messages removed per transaction."""
AFTER_FAILURE: Final = 60.0
SECOND: Final = 1_000_000_000
_READ_SECONDS: Final = 10.0


class ArchiveUpkeep:
    """Check the limits at start, every `retention_interval`, and whenever a fiftieth of a limit was added."""

    def __init__(
        self,
        engine: ArchiveEngine,
        settings: ArchiveSettings,
        clock: Callable[[], int],
        counters: dict[str, int],
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
        policy = self._policy
        if policy == RetentionPolicy() or not await in_thread(self._engine.claim, self._limiter):
            await self._count()
            return
        removed = 0
        if policy.seconds is not None:
            now = self._clock.now(await in_thread(self._newest, self._limiter))
            removed += await self._remove(None, now - policy.seconds * SECOND)
        if self.messages is None or policy.messages is not None or policy.bytes is not None:
            totals = await self._count()
            too_many = excess(policy, totals.messages, totals.bytes)
            if too_many:
                removed += await self._remove(too_many, None)
        if removed:
            log.info("retention", extra=fields(removed=removed, policy=policy))

    def _newest(self) -> int | None:
        """Return the timestamp of the newest message, None if there is none."""
        page = self._engine.read(HistoryQuery(limit=1, include_data=True), _READ_SECONDS)
        try:
            message = page.messages[-1].message if page.messages else None
        except MessageDecodeError:
            return None
        return None if message is None else message.timestamp

    async def _count(self) -> Totals:
        totals = await in_thread(self._engine.totals, self._limiter)
        self.messages, self._counted = totals.messages, totals
        return totals

    async def _remove(self, count: int | None, before: int | None) -> int:
        """Remove the oldest `count` messages, or all before a time, and pause after each piece for as long
        as it took: new messages get at least half of the writer's time."""
        removed = 0
        while count is None or removed < count:
            limit = CHUNK if count is None else min(CHUNK, count - removed)
            started = time.perf_counter()
            gone = await in_thread(partial(self._engine.remove, limit, before), self._limiter)
            removed += gone
            self._counters["removed"] += gone
            if self.messages is not None:
                self.messages -= gone
            if gone < limit:
                break
            await trio.sleep(time.perf_counter() - started)
        return removed
