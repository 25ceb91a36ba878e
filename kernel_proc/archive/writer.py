"""Write messages to the database: in groups, one transaction each, retried until they are stored.

A group is what arrived while the previous one was being written, or within 20 ms. The database may fail in
any way at any time: the state then becomes STALLED, the queue stays within its limits, and the same group is
retried.

With a spool, what waits while the database is away goes to disk, and from there to the database when it is
back.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import trio

from kernel_proc.archive.api import ArchiveState
from kernel_proc.archive.engine import ArchiveEngine, DatabaseFailed, RowsRefused
from kernel_proc.archive.queue import OfferQueue
from kernel_proc.archive.rows import ArchivedRow, Offer, make_rows
from kernel_proc.archive.spill import SPILL_PAUSE, MessageSpill
from kernel_proc.archive.threads import in_thread
from kernel_proc.metrics import Histogram
from logos_process.logs import fields

log = logging.getLogger(__name__)

T = TypeVar("T")

GROUP_MESSAGES: Final = 1024
GROUP_BYTES: Final = 4 << 20
GROUP_SECONDS: Final = 0.02
"""How long a group waits for more messages: at low rates, this saves commits and thread switches."""
PROBE_SECONDS: Final = 5.0
"""How often to probe the database without messages, to detect its loss."""
SILENCE_SECONDS: Final = 10.0
"""A database that has not responded for this long is STALLED, although we keep waiting."""
WATCH_SECONDS: Final = 1.0
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
SPILL_SECONDS: Final = 5.0
"""For putting on disk what is left at the end."""


class ArchiveWriter:
    """The single writer. `counters` (stored, duplicates, refused, write_failures) belong to the caller;
    `grown(messages, bytes)` is called with what was new, `stored` with each committed group, `changed` when
    state or reason change."""

    def __init__(
        self,
        engine: ArchiveEngine,
        queue: OfferQueue,
        counters: Counter[str],
        seconds: Histogram,
        *,
        grown: Callable[[int, int], None],
        stored: Callable[[Sequence[ArchivedRow]], None],
        changed: Callable[[], None],
        spill: MessageSpill | None = None,
    ) -> None:
        self._engine = engine
        self._queue = queue
        self._counters = counters
        self._seconds = seconds
        self._grown = grown
        self._stored = stored
        self._changed = changed
        self._spill = spill
        self.state = ArchiveState.OPENING
        self.reason = ""
        """Why the state is STALLED."""
        self.stalled_at: float | None = None
        """Since when it is."""
        self.groups = 0
        """Groups stored since the start."""
        self.last_seconds = 0.0
        """Time that the last of them took."""
        self.opened = trio.Event()
        """The database has been opened at least once."""
        self._spill_due = trio.Event()
        self._scope = trio.CancelScope(shield=True)
        self._limiter = trio.CapacityLimiter(1)
        self._work = trio.Event()
        self._group_full = trio.Event()
        self._settled = trio.Event()
        self._closing = trio.Event()
        self._held = trio.Event()
        self._held.set()
        self._ended = False
        self._flushing = 0
        self._asked: float | None = None
        """Since when a database call is outstanding."""

    # --- interface ---

    @property
    def is_closing(self) -> bool:
        """Whether new messages are refused."""
        return self._closing.is_set()

    def added(self) -> None:
        """Record that the queue has new messages."""
        self._work.set()
        if len(self._queue) >= GROUP_MESSAGES:
            self._group_full.set()
        self._spill_if_due()

    def hold(self, until: trio.Event) -> None:
        """Write nothing before `until`, or before the archive closes."""
        self._held = until

    async def room(self) -> None:
        """Wait until a group was written, or the archive has ended."""
        if not self._ended:
            await self._settled.wait()

    async def flush(self) -> None:
        """Wait until everything queued now, and what is on disk, is settled, or lost with the archive."""
        goal = self._queue.accepted
        self._flushing += 1
        self._group_full.set()
        try:
            while (self._queue.settled < goal or self._spooled) and not self._ended:
                await self._settled.wait()
        finally:
            self._flushing -= 1
        await trio.lowlevel.checkpoint()

    def close(self, seconds: float) -> None:
        """Store what is queued, for at most `seconds`, then end."""
        for event in (self._closing, self._work, self._group_full):
            event.set()
        self._scope.deadline = trio.current_time() + seconds

    def closed(self) -> None:
        self._set_state(ArchiveState.CLOSED)

    # --- lifetime ---

    async def run(self) -> None:
        """Write until closed; unaffected by cancellation of the caller."""
        try:
            with self._scope:
                await self._write()
        finally:
            if self._spill is not None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + SPILL_SECONDS):
                    await self._spill_rest(self._spill)
            self._ended = True
            self._settled.set()

    async def watch(self) -> None:
        """Detect a database that does not respond at all. Run until cancelled."""
        while True:
            await trio.sleep(WATCH_SECONDS)
            if self._asked is not None and trio.current_time() - self._asked > SILENCE_SECONDS:
                self._stall(f"no response for more than {SILENCE_SECONDS:g} s")

    async def _write(self) -> None:
        if self._spill is not None:
            await self._spill.open()
        if not await self._open():
            return
        await self._released()
        while True:
            await self._wait_for_group()
            if self._spill is not None and self._spooled and not await self._store_spooled(self._spill):
                return
            group = self._queue.take(GROUP_MESSAGES, GROUP_BYTES)
            if group:
                if not await self._store_group(group):
                    return
            elif self._spooled:
                continue
            elif self._closing.is_set():
                return
            else:
                await self._open()

    async def _open(self) -> bool:
        """Open the database, or verify that it is still open."""

        def work() -> bool:
            self._engine.open()
            return True

        return bool(await self._until_done(work))

    async def _released(self) -> None:
        async with trio.open_nursery() as nursery:

            async def until(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until, self._held)
            nursery.start_soon(until, self._closing)

    async def _wait_for_group(self) -> None:
        """Wait until a group is worth writing, a probe is due, or the archive closes."""
        if self._spooled:
            return
        if not self._queue and not self._closing.is_set():
            self._work = trio.Event()
            with trio.move_on_after(PROBE_SECONDS):
                await self._work.wait()
        if 0 < len(self._queue) < GROUP_MESSAGES and not self._flushing and not self._closing.is_set():
            self._group_full = trio.Event()
            with trio.move_on_after(GROUP_SECONDS):
                await self._group_full.wait()

    async def _store_group(self, group: list[Offer]) -> bool:
        """Store a group, or put it on disk if the database is away. Return False if the archive closed before
        either succeeded; the group is in the queue again then."""
        return await self._hand_over(group, self._limiter, self._store_or_spill)

    async def _hand_over(
        self,
        group: list[Offer],
        limiter: trio.CapacityLimiter,
        keep: Callable[[Sequence[ArchivedRow]], Awaitable[bool]],
    ) -> bool:
        """Pass a group's rows to `keep` and settle it. Put it back into the queue if that fails."""
        done = False
        try:
            rows, impossible = await in_thread(partial(make_rows, group), limiter)
            done = await keep(rows)
        finally:
            if not done:
                self._queue.put_back(group)
        if done:
            self._counters["refused"] += impossible
            self._settle(group)
        return done

    async def _store_or_spill(self, rows: Sequence[ArchivedRow]) -> bool:
        if self._spill is None:
            return await self._store(rows)
        try:
            return await self._store(rows, once=True)
        except DatabaseFailed:
            return await self._spill.put(rows) or await self._store(rows)

    def _settle(self, group: list[Offer]) -> None:
        self._queue.settle(group)
        self._settled.set()
        self._settled = trio.Event()

    async def _store(self, rows: Sequence[ArchivedRow], *, once: bool = False) -> bool:
        """Store rows. Return False if the archive closed before that succeeded. With `once`, raise
        `DatabaseFailed` instead of trying again."""
        if not rows:
            return True
        started = time.perf_counter()
        try:
            new = await self._until_done(partial(self._engine.insert, rows), once=once)
        except RowsRefused as error:
            if len(rows) == 1:
                self._counters["refused"] += 1
                log.error("cannot store a message", extra=fields(reason=error))
                return True
            half = len(rows) // 2
            return await self._store(rows[:half], once=once) and await self._store(rows[half:], once=once)
        if new is None:
            return False
        self.groups += 1
        self.last_seconds = time.perf_counter() - started
        self._seconds.observe(self.last_seconds)
        self._counters["stored"] += new
        self._counters["duplicates"] += len(rows) - new
        self._grown(new, sum(len(row.data) for row in rows))
        self._stored(rows)
        return True

    async def _until_done(self, work: Callable[[], T], *, once: bool = False) -> T | None:
        """Run work in a thread until it succeeds. Return None if the archive closes first.

        Raise `RowsRefused`, and with `once` also `DatabaseFailed`.
        """
        pause = FIRST_PAUSE
        while True:
            last = self._closing.is_set()
            self._asked = trio.current_time()
            try:
                result = await in_thread(work, self._limiter)
            except DatabaseFailed as error:
                self._asked = None
                self._counters["write_failures"] += 1
                self._stall(str(error))
                if last:
                    return None
                if once:
                    raise
                with trio.move_on_after(pause):
                    await self._closing.wait()
                pause = min(pause * 2, LONGEST_PAUSE)
            except RowsRefused:
                self._recover()
                raise
            else:
                self._recover()
                return result

    def _stall(self, reason: str) -> None:
        if self.state is not ArchiveState.STALLED:
            log.error("archive not writable, retrying", extra=fields(reason=reason))
            self.stalled_at = trio.current_time()
        self._set_state(ArchiveState.STALLED, reason)
        self._spill_if_due()

    def _recover(self) -> None:
        if self.state is ArchiveState.STALLED:
            waiting = self._queue.messages + self._spooled
            log.warning("archive writable again", extra=fields(waiting=waiting))
        self.stalled_at = None
        self._asked = None
        self.opened.set()
        self._set_state(ArchiveState.READY)

    def _set_state(self, state: ArchiveState, reason: str = "") -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            self._changed()

    # --- the spool ---

    @property
    def _spooled(self) -> int:
        return 0 if self._spill is None else self._spill.messages

    def _is_spill_due(self) -> bool:
        return self.state is ArchiveState.STALLED or self._queue.half_full

    def _spill_if_due(self) -> None:
        if self._spill is not None and self._is_spill_due():
            self._spill_due.set()

    async def spill(self, spill: MessageSpill) -> None:
        """Put on disk what the database does not take: all while it is away, half a queue while it is slow.
        Run until cancelled."""
        while True:
            await self._spill_due.wait()
            self._spill_due = trio.Event()
            await trio.sleep(GROUP_SECONDS)
            while self._is_spill_due() and not self._closing.is_set():
                group = self._queue.take(GROUP_MESSAGES, GROUP_BYTES)
                if not group:
                    break
                if not await self._hand_over(group, spill.limiter, spill.put):
                    await trio.sleep(SPILL_PAUSE)

    async def _store_spooled(self, spill: MessageSpill) -> bool:
        """Store the oldest rows on disk. Return False if the archive closed before that succeeded."""
        found = await spill.first(GROUP_MESSAGES, GROUP_BYTES)
        if found is not None:
            mark, rows = found
            if not await self._store(rows):
                return False
            await spill.remove(mark, rows)
        self._settled.set()
        self._settled = trio.Event()
        return True

    async def _spill_rest(self, spill: MessageSpill) -> None:
        """Put on disk what is still in memory at the end."""
        keep = partial(spill.put, at_the_end=True)
        while group := self._queue.take(GROUP_MESSAGES, GROUP_BYTES):
            if not await self._hand_over(group, spill.limiter, keep):
                break
        await spill.close()
