"""`MessageArchive`: the archive as the rest of the kernel knows it, on any engine.

All state belongs to the trio thread; the engine runs in worker threads. Incoming messages wait in a bounded
queue for the `writer`; pages are read on separate connections; `upkeep` applies the retention policy.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, TypeVar

import trio

from ipc_schema.message import WakuMessage
from kernel_proc.archive.api import (
    MAX_TIMESTAMP_DISTANCE_NS,
    ArchiveBusy,
    ArchiveState,
    ArchiveUnavailable,
    Backlog,
    HistoryPage,
    HistoryQuery,
    KeyQuery,
    StoredMessages,
    TopicSpan,
)
from kernel_proc.archive.engine import ArchiveEngine, DatabaseFailed
from kernel_proc.archive.plan import Key
from kernel_proc.archive.queue import OfferQueue
from kernel_proc.archive.rows import MAX_PUBSUB_TOPIC, ROW_OVERHEAD, ArchivedRow, Offer
from kernel_proc.archive.settings import ArchiveSettings
from kernel_proc.archive.spill import MessageSpill
from kernel_proc.archive.spool import MessageSpool
from kernel_proc.archive.threads import in_thread
from kernel_proc.archive.upkeep import ArchiveUpkeep
from kernel_proc.archive.writer import ArchiveWriter
from kernel_proc.metrics import Registry, Sample
from logos_process.logs import fields

log = logging.getLogger(__name__)

Q = TypeVar("Q", HistoryQuery, KeyQuery)
T = TypeVar("T")

CLOSING_SECONDS: Final = 2.0
LAG_SECONDS: Final = 15.0
"""Between two measurements of how far the replica is behind."""
MAX_SHARDS: Final = 1024
"""Shards with a count of their own, as many as a cluster has. An import may bring others."""
OTHER_SHARDS: Final = "other"
_DURATIONS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_REFUSALS: Final = {
    "too_old": "invalid_message_too_old",
    "in_future": "invalid_message_future_timestamp",
    "bad_topic": "bad_topic",
    "queue_full": "queue_full",
    "closed": "closed",
    "refused": "insert_refused",
    "write_failures": "insert_failure",
    "query_failures": "query_failure",
    "queries_busy": "query_busy",
    "retention_failures": "retention_failure",
    "spool_failures": "spool_failure",
}
"""Our counters of messages not stored and queries not answered, as types of nwaku's `archive_errors`."""


class MessageArchive:
    """The message archive of one node. Call its methods from the trio thread only.

    `changed` is called when `state` or `reason` changed; `clock` is the wall clock in nanoseconds, for
    retention. Counters and durations go to `registry`, if given.
    """

    def __init__(
        self,
        engine: ArchiveEngine,
        settings: ArchiveSettings,
        *,
        registry: Registry | None = None,
        clock: Callable[[], int] = time.time_ns,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._queue = OfferQueue(settings.queue_messages, settings.queue_bytes)
        self._closer = trio.CapacityLimiter(1)
        self._readers = trio.CapacityLimiter(engine.readers)
        self.counters: Counter[str] = Counter()
        """Monotonic: stored, duplicates; ephemeral, too_old, in_future, bad_topic, queue_full and closed
        (offers not accepted); refused (accepted, but impossible to store); write_failures (attempts);
        queries, query_failures, queries_busy; removed, retention_failures; spooled (put on disk while the
        database was away), spool_failures."""
        self._upkeep = ArchiveUpkeep(engine, settings, clock, self.counters)
        registry = registry or Registry()
        registry.add_source(self.samples)
        self._spool = self._spill = None
        if settings.spool is not None:
            self._spool = MessageSpool(settings.spool, settings.spool_bytes)
            self._spill = MessageSpill(self._spool, self.counters, changed=changed)
        self._replica_lag: float | None = None
        self._writer = ArchiveWriter(
            engine,
            self._queue,
            self.counters,
            registry.histogram("archive_insert_duration_seconds", _DURATIONS),
            grown=self._upkeep.grown,
            stored=self._notify_stored,
            changed=changed,
            spill=self._spill,
        )
        self._listeners: list[StoredMessages] = []
        self._counting = trio.CapacityLimiter(1)
        self._per_shard: dict[str, int] = {}
        """Messages by the shard of their pubsub topic."""
        self._last_payload = 0
        self._last_query = 0.0
        self._query_seconds = registry.histogram("archive_query_duration_seconds", _DURATIONS)

    # --- state ---

    @property
    def state(self) -> ArchiveState:
        return self._writer.state

    @property
    def reason(self) -> str:
        """Why the state is STALLED, for the operator; empty otherwise. Never contains a password."""
        return self._writer.reason

    def backlog(self) -> Backlog:
        """Return how far the database is behind: what the queue and the spool hold."""
        spool, since = self._spool, self._writer.stalled_at
        on_disk, disk_bytes = (0, 0) if spool is None else (spool.messages, spool.bytes)
        return Backlog(
            messages=self._queue.messages + on_disk,
            on_disk=on_disk,
            disk_bytes=disk_bytes,
            away_seconds=0.0 if since is None else trio.current_time() - since,
            replica_lag=self._replica_lag,
            damaged=() if spool is None else spool.damaged,
        )

    def samples(self) -> Iterable[Sample]:
        """Yield nwaku's `archive_messages` and `archive_errors`, and the queue's length and drops."""
        counters = self.counters
        if self._upkeep.messages is not None:
            yield "archive_messages", {"type": "stored"}, self._upkeep.messages
        for shard, count in self._per_shard.items():
            yield "archive_messages_per_shard", {"shard": shard}, count
        if self._upkeep.size is not None:
            yield "archive_size_bytes", {}, self._upkeep.size
        for name, kind in _REFUSALS.items():
            yield "archive_errors", {"type": kind}, counters[name]
        for name in ("stored", "duplicates", "ephemeral", "removed", "spooled"):
            yield f"archive_{name}_total", {}, counters[name]
        yield from self._statement_samples()
        yield "archive_queue_messages", {}, self._queue.messages
        yield "archive_queue_bytes", {}, self._queue.bytes
        backlog = self.backlog()
        yield "archive_spool_messages", {}, backlog.on_disk
        yield "archive_spool_bytes", {}, backlog.disk_bytes
        yield "archive_spool_damaged_files", {}, len(backlog.damaged)
        yield "archive_away_seconds", {}, backlog.away_seconds
        lag = 0.0 if self._settings.read_database is None else backlog.replica_lag
        if lag is not None:
            yield "archive_replica_lag_seconds", {}, lag
        yield "archive_ready", {}, int(self.state is ArchiveState.READY)

    def _statement_samples(self) -> Iterable[Sample]:
        """Statements by kind, under the names that nwaku has for PostgreSQL."""
        done = {"insert": self._writer.groups, "page": self.counters["queries"]}
        seconds = {"insert": self._writer.last_seconds, "page": self._last_query}
        for kind, count in done.items():
            yield "query_count", {"query": kind}, count
            yield "query_time_secs", {"query": kind, "phase": "waitFinish"}, seconds[kind]
        if self._settings.database.url is not None:
            yield "postgres_payload_size_bytes", {}, self._last_payload

    # --- storing ---

    def offer(self, pubsub_topic: str, message: WakuMessage, message_hash: bytes, received_ns: int) -> bool:
        """Offer a valid message to the archive. Never block or raise.

        `received_ns` is the wall-clock time in nanoseconds since the Unix epoch. Return True if the message
        is queued (a duplicate is ignored later), False if it is ephemeral, its timestamp is more than 20 s
        off, or the queue is full; refusals are counted by reason.
        """
        refusal = self._refusal(pubsub_topic, message) or _wrong_time(message, received_ns)
        if refusal is None:
            if self._enqueue(pubsub_topic, message, message_hash):
                return True
            refusal = "queue_full"
        self.counters[refusal] += 1
        return False

    async def insert(self, pubsub_topic: str, message: WakuMessage, message_hash: bytes) -> bool:
        """Take a message from another store, of any age: wait for room in the queue instead of dropping it.

        Return False, counted by reason, if it is ephemeral, its topic is too long, or the archive closes.
        """
        await trio.lowlevel.checkpoint()
        while (refusal := self._refusal(pubsub_topic, message)) is None:
            if self._enqueue(pubsub_topic, message, message_hash):
                return True
            await self._writer.room()
        self.counters[refusal] += 1
        return False

    def _enqueue(self, pubsub_topic: str, message: WakuMessage, message_hash: bytes) -> bool:
        payload, content_topic, _, _, meta, proof, _ = message
        cost = len(payload) + 2 * len(content_topic) + len(meta) + len(proof) + ROW_OVERHEAD
        if not self._queue.add(Offer(pubsub_topic, message, message_hash, cost)):
            return False
        self._last_payload = len(payload)
        shard = pubsub_topic.rpartition("/")[2]
        if shard not in self._per_shard and len(self._per_shard) >= MAX_SHARDS:
            shard = OTHER_SHARDS
        self._per_shard[shard] = self._per_shard.get(shard, 0) + 1
        self._writer.added()
        return True

    def _refusal(self, pubsub_topic: str, message: WakuMessage) -> str | None:
        if message.ephemeral:
            return "ephemeral"
        if len(pubsub_topic) > MAX_PUBSUB_TOPIC // 4:  # a character has at most four bytes
            return "bad_topic"
        return "closed" if self._writer.is_closing else None

    def add_listener(self, stored: StoredMessages) -> None:
        """Call `stored` after each commit."""
        self._listeners.append(stored)

    def _notify_stored(self, rows: Sequence[ArchivedRow]) -> None:
        if self._listeners:
            keys = [(row.pubsub_topic, row.timestamp, row.message_hash) for row in rows]
            for listener in self._listeners:
                listener(keys)

    def hold_writes(self, until: trio.Event) -> None:
        """Write nothing before `until`: what the archive had at start can then be read without a race."""
        self._writer.hold(until)

    async def flush(self) -> None:
        """Wait until everything offered so far is committed (or was rejected by the database)."""
        await self._writer.flush()

    # --- queries ---

    async def query(self, query: HistoryQuery) -> HistoryPage:
        """Read one page. Raise `CursorNotFound`, `ArchiveBusy` or `ArchiveUnavailable`."""
        return await self._read(self._engine.read, query)

    async def keys(self, query: KeyQuery) -> list[Key]:
        """Read keys in the query's direction. Raise `ArchiveBusy` or `ArchiveUnavailable`."""
        return await self._read(self._engine.read_keys, query)

    async def spans(self) -> list[TopicSpan]:
        """Count the messages of each pubsub topic; may take seconds. Raise `ArchiveUnavailable`."""
        self._check_open()
        try:
            return await in_thread(self._engine.spans, self._counting)
        except DatabaseFailed as error:
            raise ArchiveUnavailable(str(error)) from error

    def _check_open(self) -> None:
        if self.state in (ArchiveState.OPENING, ArchiveState.CLOSED):
            self.counters["query_failures"] += 1
            raise ArchiveUnavailable(f"the archive is {self.state}")

    async def _read(self, read: Callable[[Q, float], T], query: Q) -> T:
        self._check_open()
        if self._readers.statistics().tasks_waiting >= self._settings.waiting_queries:
            self.counters["queries_busy"] += 1
            raise ArchiveBusy("too many queries are waiting")
        self.counters["queries"] += 1
        timeout = self._settings.query_timeout
        started = time.perf_counter()
        try:
            # On a timeout the thread is left behind with its connection; both are released within `timeout`.
            with trio.fail_after(timeout):
                found = await in_thread(partial(read, query, timeout), self._readers)
        except DatabaseFailed as error:
            self.counters["query_failures"] += 1
            raise ArchiveUnavailable(str(error)) from error
        except trio.TooSlowError:
            self.counters["query_failures"] += 1
            raise ArchiveUnavailable(f"no response within {timeout:g} s") from None
        self._last_query = time.perf_counter() - started
        self._query_seconds.observe(self._last_query)
        return found

    async def _measure_lag(self) -> None:
        limiter = trio.CapacityLimiter(1)
        while True:
            try:
                self._replica_lag = await in_thread(self._engine.replica_lag, limiter)
            except DatabaseFailed:  # logged when a page is to be read from it
                self._replica_lag = None
            await trio.sleep(LAG_SECONDS)

    # --- lifetime ---

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the database, store offers, and apply the retention policy, until cancelled.

        Never ends because of the database, and reports started whether or not the database responds. When
        cancelled, store what is queued, for at most two seconds; the rest goes to the spool.
        """
        writer = self._writer
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(writer.run, name="archive writer")
                nursery.start_soon(self._upkeep.run, writer.opened, name="archive upkeep")
                nursery.start_soon(writer.watch, name="archive watch")
                if self._spill is not None:
                    nursery.start_soon(writer.spill, self._spill, name="archive spool")
                if self._settings.read_database is not None:
                    nursery.start_soon(self._measure_lag, name="archive replica")
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    writer.close(CLOSING_SECONDS)
        finally:
            if self._queue.messages:
                log.warning(
                    "archive closed with unstored messages", extra=fields(messages=self._queue.messages)
                )
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSING_SECONDS):
                await in_thread(self._engine.close, self._closer)
            writer.closed()


def _wrong_time(message: WakuMessage, received_ns: int) -> str | None:
    age = received_ns - message.timestamp
    if age > MAX_TIMESTAMP_DISTANCE_NS:
        return "too_old"
    return "in_future" if age < -MAX_TIMESTAMP_DISTANCE_NS else None
