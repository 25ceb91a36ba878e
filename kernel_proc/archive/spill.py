"""The spool as the writer uses it: in worker threads, every failure counted and logged."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import trio

from kernel_proc.archive.rows import ArchivedRow
from kernel_proc.archive.spool import MessageSpool, SpoolFailed
from kernel_proc.archive.threads import in_thread
from logos_process.logs import fields

log = logging.getLogger(__name__)

T = TypeVar("T")

SPILL_PAUSE: Final = 1.0
"""After the spool was full or failed."""


class MessageSpill:
    """Messages on disk. `counters` (spooled, spool_failures) belong to the caller; `changed` is called when a
    damaged file was set aside."""

    def __init__(
        self, spool: MessageSpool, counters: Counter[str], *, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._spool = spool
        self._counters = counters
        self._changed = changed
        self.limiter = trio.CapacityLimiter(1)

    @property
    def messages(self) -> int:
        """Number of messages on disk."""
        return self._spool.messages

    async def open(self) -> None:
        """Find out what an earlier run left."""
        await self._do(self._spool.open)
        if self.messages:
            log.warning("archive messages of an earlier run wait", extra=fields(messages=self.messages))

    async def put(self, rows: Sequence[ArchivedRow], *, at_the_end: bool = False) -> bool:
        """Append rows. Return False if that is impossible. `at_the_end`: also if there is no room, for they
        would be lost."""
        if not (at_the_end or self._spool.has_room):
            return False
        if not await self._do(partial(self._spool.add, rows)):
            return False
        self._counters["spooled"] += len(rows)
        return True

    async def first(self, messages: int, size: int) -> tuple[int, list[ArchivedRow]] | None:
        """Return the oldest rows, see `MessageSpool`; None after a failure and a pause."""
        found: list[tuple[int, list[ArchivedRow]]] = []
        if await self._do(lambda: found.append(self._spool.first(messages, size))):
            return found[0]
        await trio.sleep(SPILL_PAUSE)
        return None

    async def remove(self, mark: int, rows: Sequence[ArchivedRow]) -> None:
        if not await self._do(partial(self._spool.remove, mark, rows)):
            await trio.sleep(SPILL_PAUSE)

    async def close(self) -> None:
        await in_thread(self._spool.close, self.limiter)

    async def _do(self, work: Callable[[], None]) -> bool:
        damaged = len(self._spool.damaged)
        try:
            await in_thread(work, self.limiter)
        except SpoolFailed as error:
            self._counters["spool_failures"] += 1
            log.error("archive: cannot keep messages on disk", extra=fields(reason=error))
            return False
        finally:
            if len(self._spool.damaged) != damaged:
                self._changed()
        return True
