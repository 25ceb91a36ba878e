"""History that apps request when they subscribe: through the same events, once per message and app.

A job is one app, one shard, some content topics and a time span. It queries stores like a catch-up does,
skips what the app was already delivered, and is retried until it succeeds, the app unsubscribes, or is
gone. Jobs of named apps are on disk until they are done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.kernel.store import StoredMessage
from mapi_proc.database import WantedHistory
from mapi_proc.receive.catchup import AFTER_NS, OVERLAP_NS
from mapi_proc.receive.fetching import fetch
from mapi_proc.receive.stores import StoreHistory
from mapi_proc.receive.worklist import Work, Worklist, WorkVerdict
from mapi_proc.streams import AppStream
from mapi_proc.subscriptions import SubscriptionTable
from mapi_proc.write_batch import Turn

MAX_JOBS: Final = 256
"""Most open jobs of one app."""


@dataclass(slots=True, eq=False)
class HistoryJob(Work):
    """What one app wants of one shard, from `start` to `end` (ns)."""

    stream: AppStream
    shard: int
    topics: list[str]
    start: int
    end: int


@dataclass(kw_only=True, eq=False)
class HistoryJobs:
    """All jobs, worked off one after the other."""

    history: StoreHistory
    turn: Turn
    table: SubscriptionTable[AppStream]
    clock: Callable[[], float]
    delivered: Callable[[int, int], Awaitable[set[bytes] | None]]
    """(app id, since): return the hashes delivered to a named app since then (ns), None if the disk cannot
    answer now."""
    deliver: Callable[[int, AppStream, StoredMessage], None]
    """(shard, stream, message): take a message."""

    def __post_init__(self) -> None:
        self._jobs: Worklist[HistoryJob] = Worklist(self._attempt, self.clock)
        self.set_online = self._jobs.set_online
        self.wake = self._jobs.wake
        self.run = self._jobs.run

    def __len__(self) -> int:
        return len(self._jobs)

    def check_room(self, stream: AppStream) -> None:
        """Raise `busy` if the app has the maximum number of jobs."""
        if sum(job.stream is stream for job in self._jobs) >= MAX_JOBS:
            reason = f"{MAX_JOBS} spans of history are asked for already, and no store has answered"
            raise IpcError(ErrorCode.BUSY, reason, retry_after_ms=2000)

    def begin(self, stream: AppStream, topics: Iterable[str], start: int, end: int) -> None:
        """Fetch the topics' messages in this time span; topics that are no longer subscribed are skipped."""
        by_shard: dict[int, list[str]] = {}
        for topic in topics:
            shard = self.table.shard_of(topic)
            if shard is not None:
                by_shard.setdefault(shard, []).append(topic)
        now = self.clock()
        for shard, wanted in by_shard.items():
            self._jobs.add(HistoryJob(stream, shard, sorted(wanted), start, end, next_attempt=now))

    def resume(self, saved: Iterable[WantedHistory], streams: Mapping[int, AppStream]) -> None:
        """Resume the jobs that a restart interrupted; `streams` by app id."""
        spans: dict[tuple[int, int, int], list[str]] = {}
        for one in saved:
            spans.setdefault((one.app_id, one.start, one.end), []).append(one.topic)
        for (app_id, start, end), topics in spans.items():
            if app_id in streams:
                self.begin(streams[app_id], topics, start, end)

    def forget(self, stream: AppStream) -> None:
        """Drop the app's jobs."""
        for job in self._jobs:
            if job.stream is stream:
                self._jobs.remove(job)

    async def _attempt(self, job: HistoryJob) -> WorkVerdict:
        topics = [topic for topic in job.topics if self.table.has(job.stream, topic)]
        if topics and not await self._fetch(job, topics):
            return WorkVerdict.FAILED
        if job in self._jobs:
            self._end(job)
        return WorkVerdict.DONE

    def _end(self, job: HistoryJob) -> None:
        """Remove the job from disk, except for topics of which another job wants another time span."""
        if not job.stream.app_id:
            return
        others = [other.topics for other in self._jobs if other is not job and other.stream is job.stream]
        for topic in set(job.topics).difference(*others):
            self.turn.batch.end_history(job.stream.app_id, topic)

    async def _fetch(self, job: HistoryJob, topics: list[str]) -> bool:
        stream = job.stream
        since = job.start - OVERLAP_NS
        with self.turn.watch(stream.app_id) as fresh:  # records what is delivered from here on
            known = await self.delivered(stream.app_id, since) if stream.app_id else set()
            if known is None:
                return False

            def wanted(digest: bytes) -> bool:
                return not (digest in known or digest in fresh or stream.was_delivered(digest))

            def deliver(message: StoredMessage) -> None:
                if self.table.has(stream, message.message.content_topic):
                    self.deliver(job.shard, stream, message)

            answered = await fetch(
                self.history.stores(job.shard),
                topics,
                since,
                job.end + AFTER_NS,
                room=self.turn.room,
                wanted=wanted,
                deliver=deliver,
            )
            return bool(answered)
