"""`MessageArchive`: the archive as the node runs it, on whichever engine.

All state belongs to the trio thread; the engine works in threads, one piece of work at a time. Messages are
written in groups, one transaction each: a group is what came in while the one before was written, or within
20 ms. The database may fail in any way and at any time: then the state is STALLED, what waits stays within
the queue's bounds, and the same group is tried again until it is stored.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from ipc_schema.message import WakuMessage
from kernel_proc.archive.api import (
    MAX_TIMESTAMP_DISTANCE_NS,
    ArchiveBusy,
    ArchiveState,
    ArchiveUnavailable,
    HistoryPage,
    HistoryQuery,
)
from kernel_proc.archive.engine import DatabaseFailed, Engine, RowsRefused
from kernel_proc.archive.queue import OfferQueue
from kernel_proc.archive.rows import MAX_PUBSUB_TOPIC, ROW_OVERHEAD, Offer, make_rows
from kernel_proc.archive.settings import ArchiveSettings
from kernel_proc.archive.threads import in_thread
from kernel_proc.archive.upkeep import Upkeep
from kernel_proc.logs import fields
from kernel_proc.metrics import Registry, Sample

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that py-libp2p brings hide trio's own name

__all__ = ["MessageArchive"]

log = logging.getLogger(__name__)

T = TypeVar("T")

GROUP_MESSAGES: Final = 1024
GROUP_BYTES: Final = 4 << 20
GROUP_SECONDS: Final = 0.02
"""A group waits this long for company: at low rates fewer commits and fewer threads woken."""
PROBE_SECONDS: Final = 5.0
"""Without messages the database is looked at this often, so that its loss shows."""
SILENCE_SECONDS: Final = 10.0
"""A database that has not answered for so long is STALLED, though the answer is still waited for."""
WATCH_SECONDS: Final = 1.0
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
CLOSING_SECONDS: Final = 2.0
_DURATIONS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_REFUSALS: Final = {
    "too_old": "invalid_message_too_old",
    "in_future": "invalid_message_future_timestamp",
    "queue_full": "queue_full",
    "refused": "insert_refused",
    "write_failures": "insert_failure",
    "query_failures": "query_failure",
    "retention_failures": "retention_failure",
}
"""Our counters that are nwaku's `archive_errors`, by type."""


class MessageArchive:
    """`Archive` on an engine. `changed` is called when `state` or `reason` changed; `clock` is the wall clock
    in nanoseconds, for retention. Counters and durations go to `registry`, if one is given.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ArchiveSettings,
        *,
        registry: Registry | None = None,
        clock: Callable[[], int] = time.time_ns,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._changed = changed
        self._state = ArchiveState.OPENING
        self._reason = ""
        self._queue = OfferQueue(settings.queue_messages, settings.queue_bytes)
        self._work = trio.Event()
        self._group_full = trio.Event()
        self._settled = trio.Event()
        self._opened = trio.Event()
        self._closing = trio.Event()
        self._flushing = 0
        self._asked: float | None = None
        """Since when the database owes the writer an answer."""
        self._writer = trio.CapacityLimiter(1)
        self._closer = trio.CapacityLimiter(1)
        self._readers = trio.CapacityLimiter(engine.readers)
        self._counters = dict.fromkeys(
            (
                *("stored", "duplicates", "ephemeral", "too_old", "in_future", "bad_topic", "queue_full"),
                *("closed", "refused", "write_failures", "queries", "query_failures", "queries_busy"),
                *("removed", "retention_failures"),
            ),
            0,
        )
        self._upkeep = Upkeep(engine, settings, clock, self._counters)
        registry = registry or Registry()
        registry.add_source(self.samples)
        self._insert_seconds = registry.histogram("archive_insert_duration_seconds", _DURATIONS)
        self._query_seconds = registry.histogram("archive_query_duration_seconds", _DURATIONS)

    # --- facts ---

    @property
    def state(self) -> ArchiveState:
        """Where it stands."""
        return self._state

    @property
    def reason(self) -> str:
        """Why it is STALLED."""
        return self._reason

    def counters(self) -> dict[str, int]:
        """Monotonic: stored, duplicates (there already); ephemeral, too_old, in_future, bad_topic, queue_full
        and closed (offers not accepted); refused (accepted, but impossible to store); write_failures
        (attempts); queries, query_failures, queries_busy; removed, retention_failures.
        """
        return dict(self._counters)

    def samples(self) -> Iterable[Sample]:
        """nwaku's `archive_messages` and `archive_errors`, and the queue's length and drops."""
        counters = self._counters
        if self._upkeep.messages is not None:
            yield "archive_messages", {"type": "stored"}, self._upkeep.messages
        for name, kind in _REFUSALS.items():
            yield "archive_errors", {"type": kind}, counters[name]
        for name in ("stored", "duplicates", "ephemeral", "removed"):
            yield f"archive_{name}_total", {}, counters[name]
        yield "archive_queue_messages", {}, self._queue.messages
        yield "archive_queue_bytes", {}, self._queue.bytes
        yield "archive_ready", {}, int(self._state is ArchiveState.READY)

    # --- messages in ---

    def offer(self, pubsub_topic: str, message: WakuMessage, message_hash: bytes, received_ns: int) -> bool:
        """Take a message in, if the rules and the queue's bounds allow it."""
        refusal = self._refusal(pubsub_topic, message, received_ns)
        if refusal is None:
            payload, content_topic, _, _, meta, proof, _ = message
            cost = len(payload) + 2 * len(content_topic) + len(meta) + len(proof) + ROW_OVERHEAD
            if self._queue.add(Offer(pubsub_topic, message, message_hash, cost)):
                self._work.set()
                if len(self._queue) >= GROUP_MESSAGES:
                    self._group_full.set()
                return True
            refusal = "queue_full"
        self._counters[refusal] += 1
        return False

    def _refusal(self, pubsub_topic: str, message: WakuMessage, received_ns: int) -> str | None:
        if message.ephemeral:
            return "ephemeral"
        age = received_ns - message.timestamp
        if age > MAX_TIMESTAMP_DISTANCE_NS:
            return "too_old"
        if age < -MAX_TIMESTAMP_DISTANCE_NS:
            return "in_future"
        if len(pubsub_topic) > MAX_PUBSUB_TOPIC // 4:  # a character has four bytes at most
            return "bad_topic"
        return "closed" if self._closing.is_set() else None

    async def flush(self) -> None:
        """Wait until everything offered so far is settled."""
        goal = self._queue.accepted
        self._flushing += 1
        self._group_full.set()
        try:
            while self._queue.settled < goal:
                await self._settled.wait()
        finally:
            self._flushing -= 1
        await trio.lowlevel.checkpoint()

    # --- pages out ---

    async def query(self, query: HistoryQuery) -> HistoryPage:
        """Read one page, on one of the reading connections."""
        if self._state in (ArchiveState.OPENING, ArchiveState.CLOSED):
            self._counters["query_failures"] += 1
            raise ArchiveUnavailable(f"the archive is {self._state}")
        if self._readers.statistics().tasks_waiting >= self._settings.waiting_queries:
            self._counters["queries_busy"] += 1
            raise ArchiveBusy("too many queries are waiting")
        self._counters["queries"] += 1
        timeout = self._settings.query_timeout
        started = time.perf_counter()
        try:
            # Who gives up leaves the thread behind, with its connection; both are free again in `timeout`.
            with trio.fail_after(timeout):
                page = await in_thread(partial(self._engine.read, query, timeout), self._readers)
        except DatabaseFailed as error:
            self._counters["query_failures"] += 1
            raise ArchiveUnavailable(str(error)) from error
        except trio.TooSlowError:
            self._counters["query_failures"] += 1
            raise ArchiveUnavailable(f"no answer within {timeout:g} s") from None
        self._query_seconds.observe(time.perf_counter() - started)
        return page

    # --- life ---

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled."""
        writing = trio.CancelScope(shield=True)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, writing, name="archive writer")
                nursery.start_soon(self._upkeep.run, self._opened, name="archive upkeep")
                nursery.start_soon(self._watch, name="archive watch")
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    for event in (self._closing, self._work, self._group_full):
                        event.set()
                    writing.deadline = trio.current_time() + CLOSING_SECONDS
        finally:
            if self._queue.messages:
                log.warning("messages are lost with the archive", extra=fields(messages=self._queue.messages))
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSING_SECONDS):
                await in_thread(self._engine.close, self._closer)
            self._set_state(ArchiveState.CLOSED)

    async def _write(self, scope: trio.CancelScope) -> None:
        with scope:
            if not await self._open():
                return
            while True:
                await self._wait_for_group()
                group = self._queue.take(GROUP_MESSAGES, GROUP_BYTES)
                if group:
                    if not await self._store(group):
                        return
                    self._queue.settle(group)
                    self._settled.set()
                    self._settled = trio.Event()
                elif self._closing.is_set():
                    return
                else:
                    await self._open()

    async def _open(self) -> bool:
        """Open the database, or see whether it still is."""

        def work() -> bool:
            self._engine.open()
            return True

        return bool(await self._until_done(work))

    async def _wait_for_group(self) -> None:
        """Until a group is worth writing, or nothing came for long, or the archive closes."""
        if not self._queue and not self._closing.is_set():
            self._work = trio.Event()
            with trio.move_on_after(PROBE_SECONDS):
                await self._work.wait()
        if 0 < len(self._queue) < GROUP_MESSAGES and not self._flushing and not self._closing.is_set():
            self._group_full = trio.Event()
            with trio.move_on_after(GROUP_SECONDS):
                await self._group_full.wait()

    async def _store(self, group: list[Offer]) -> bool:
        """Store a group; False when the archive closes and it could not be."""

        def work() -> tuple[int, int, int]:
            rows, impossible = make_rows(group)
            size = sum(len(row.data) for row in rows)
            return self._engine.insert(rows) if rows else 0, impossible, size

        started = time.perf_counter()
        try:
            result = await self._until_done(work)
        except RowsRefused as error:
            if len(group) == 1:
                self._counters["refused"] += 1
                log.error("a message cannot be stored", extra=fields(reason=error))
                return True
            half = len(group) // 2
            return await self._store(group[:half]) and await self._store(group[half:])
        if result is None:
            return False
        self._insert_seconds.observe(time.perf_counter() - started)
        new, impossible, size = result
        self._counters["stored"] += new
        self._counters["refused"] += impossible
        self._counters["duplicates"] += len(group) - impossible - new
        self._upkeep.grown(new, size)
        return True

    async def _until_done(self, work: Callable[[], T]) -> T | None:
        """Have a thread do it, again and again until it succeeds; None when the archive closes before.

        Raises `RowsRefused`.
        """
        pause = FIRST_PAUSE
        while True:
            last = self._closing.is_set()
            self._asked = trio.current_time()
            try:
                result = await in_thread(work, self._writer)
            except DatabaseFailed as error:
                self._asked = None
                self._counters["write_failures"] += 1
                self._stall(str(error))
                if last:
                    return None
                with trio.move_on_after(pause):
                    await self._closing.wait()
                pause = min(pause * 2, LONGEST_PAUSE)
            except RowsRefused:
                self._recover()
                raise
            else:
                self._recover()
                return result

    async def _watch(self) -> None:
        """See a database that says nothing at all."""
        while True:
            await trio.sleep(WATCH_SECONDS)
            if self._asked is not None and trio.current_time() - self._asked > SILENCE_SECONDS:
                self._stall(f"no answer for more than {SILENCE_SECONDS:g} s")

    def _stall(self, reason: str) -> None:
        if self._state is not ArchiveState.STALLED:
            log.error("the archive cannot be written: trying again until it can", extra=fields(reason=reason))
        self._set_state(ArchiveState.STALLED, reason)

    def _recover(self) -> None:
        if self._state is ArchiveState.STALLED:
            log.warning("the archive can be written", extra=fields(waiting=self._queue.messages))
        self._asked = None
        self._opened.set()
        self._set_state(ArchiveState.READY)

    def _set_state(self, state: ArchiveState, reason: str = "") -> None:
        if (state, reason) != (self._state, self._reason):
            self._state, self._reason = state, reason
            self._changed()
