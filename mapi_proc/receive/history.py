"""History that apps ask for when they subscribe: through the same events, once per message and app.

A job is one app, one shard, some content topics and a span of time. It asks stores like a catch-up does,
leaves out what the app was given already, and is tried until it succeeds, the app unsubscribes, or is gone.
Jobs of named apps are on disk until they are done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from mapi_proc.database import Database
from mapi_proc.receive.catchup import AFTER_NS, OVERLAP_NS, History, chunked
from mapi_proc.receive.receiver import Receiver
from mapi_proc.streams import AppStream
from mapi_proc.turn import Turn

__all__ = ["HistoryJob", "HistoryJobs"]

log = logging.getLogger(__name__)

_RETRY_S: Final = 2.0
_RETRY_MAX_S: Final = 60.0


@dataclass(slots=True, eq=False)
class HistoryJob:
    """What one app wants of one shard, from `start` to `end` (ns)."""

    stream: AppStream
    shard: int
    topics: list[str]
    start: int
    end: int
    attempts: int = 0
    next_attempt: float = 0.0


class HistoryJobs:
    """All jobs, and the loop that works them off one after the other."""

    def __init__(
        self,
        history: History,
        database: Database,
        turn: Turn,
        receiver: Receiver,
        *,
        clock: Callable[[], float],
        has: Callable[[AppStream, str], bool],
    ) -> None:
        """`has(stream, topic)`: whether the app still subscribes it."""
        self._history = history
        self._database = database
        self._turn = turn
        self._receiver = receiver
        self._clock = clock
        self._has = has
        self._jobs: list[HistoryJob] = []
        self._online = False
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, stream: AppStream, shard: int, topics: Iterable[str], start: int, end: int) -> None:
        """Begin a job."""
        job = HistoryJob(stream, shard, sorted(topics), start, end, next_attempt=self._clock())
        self._jobs.append(job)
        self._changed.set()

    def forget(self, stream: AppStream) -> None:
        """The app is gone."""
        self._jobs = [job for job in self._jobs if job.stream is not stream]

    def set_online(self, online: bool) -> None:
        """Whether the kernel can be asked."""
        self._online = online
        self._changed.set()

    def wake(self) -> None:
        """Stores appeared."""
        for job in self._jobs:
            job.next_attempt = 0.0
        self._changed.set()

    async def run(self) -> None:
        """Work jobs off until cancelled."""
        while True:
            self._changed.clear()
            now = self._clock()
            for job in list(self._jobs) if self._online else ():
                if job.next_attempt <= now and job in self._jobs:
                    await self._attempt(job)
            delay: float | None = None
            if self._jobs and self._online:
                delay = max(0.05, min(job.next_attempt for job in self._jobs) - self._clock())
            try:
                async with asyncio.timeout(delay):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _attempt(self, job: HistoryJob) -> None:
        topics = [topic for topic in job.topics if self._has(job.stream, topic)]
        if topics and not await self._fetch(job, topics):
            job.attempts += 1
            wait = min(_RETRY_S * 1.5 ** (job.attempts - 1), _RETRY_MAX_S)
            job.next_attempt = self._clock() + wait
            return
        if job in self._jobs:
            self._jobs.remove(job)
            if job.stream.app_id:
                for topic in job.topics:
                    self._turn.batch.end_history(job.stream.app_id, topic)

    async def _fetch(self, job: HistoryJob, topics: list[str]) -> bool:
        app_id = job.stream.app_id
        watch: set[bytes] = set()
        if app_id:
            self._turn.watched[app_id] = watch
        try:
            known = await self._given(app_id)
            for portion in chunked(topics):
                start, end = job.start - OVERLAP_NS, job.end + AFTER_NS
                hashes = await self._history.hashes(job.shard, portion, start, end)
                if hashes is None:
                    return False
                new = [found for found in hashes if found not in known and found not in watch]
                messages = await self._history.messages(job.shard, new) if new else []
                if messages is None:
                    return False
                for message in sorted(messages, key=lambda stored: stored.message.timestamp):
                    found = message.message_hash
                    if found in known or found in watch or job.stream.was_given(found):
                        continue
                    if self._has(job.stream, message.message.content_topic):
                        self._receiver.from_history(job.shard, job.stream, message)
        finally:
            self._turn.watched.pop(app_id, None)
        return True

    async def _given(self, app_id: int) -> set[bytes]:
        """What a named app was given, as of now: what is on its way to the disk is waited for."""
        if not app_id:
            return set()
        self._turn.flush()
        barrier = self._database.batch()
        barrier.note("history-barrier", b"")
        await self._database.commit(barrier)
        return await self._database.find_delivered(app_id)
