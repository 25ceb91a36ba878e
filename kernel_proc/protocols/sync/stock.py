"""What this store has to compare: an index for each of its pubsub topics, filled from the archive and kept up
with what is committed to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from kernel_proc.archive.api import KeyQuery
from kernel_proc.archive.service import MessageArchive
from kernel_proc.protocols.sync.index import KeyIndex, KeyView, MergedView
from kernel_proc.protocols.sync.keys import MAX_TIME, SyncKey, make_key, time_of
from kernel_proc.protocols.sync.reconcile import SyncWindow, TopicFilter

MAX_KEYS: Final = 2_000_000
"""Sync ids in memory, 44 bytes each. Beyond that the oldest are given up, and the window gets shorter."""
MAX_CONTENT_KEYS: Final = 100_000
"""Sync ids of a session with a peer that compares some content topics only: these have no index."""
PAGE: Final = 2000
SLACK: Final = 600
"""Seconds that the index reaches back beyond the window: that of a session is as old as the session, and that
of a peer whose clock is behind begins earlier."""


class TooManyKeys(Exception):
    """There are too many messages for a session on single content topics."""


class SyncStock:
    """Call `ensure` before a session. `clock`: the wall clock in ns."""

    def __init__(
        self,
        archive: MessageArchive,
        *,
        seconds: float,
        jitter: float,
        clock: Callable[[], int],
        max_keys: int = MAX_KEYS,
    ) -> None:
        self._archive = archive
        self._seconds = seconds
        self._jitter = jitter
        self._clock = clock
        self._max_keys = max_keys
        self._indexes: dict[str, KeyIndex] = {}
        self._loaded: set[str] = set()
        self._ensuring = trio.Lock()
        self._floor = 0
        """Nothing older is indexed, for lack of room."""
        archive.add_listener(self._stored)

    def __len__(self) -> int:
        return sum(map(len, self._indexes.values()))

    def window(self) -> SyncWindow:
        """Return the window of a session that starts now."""
        window = SyncWindow.before(self._clock(), self._seconds, self._jitter)
        return SyncWindow(min(max(window.start, self._floor), window.end), window.end)

    def covers(self, topic: str) -> bool:
        """Return whether messages of this pubsub topic are compared."""
        return topic in self._indexes

    def holds(self, topic: str, key: SyncKey) -> bool:
        """Return whether a message is here already."""
        index = self._indexes.get(topic)
        return index is not None and index.summary(key, key).size > 0

    # --- keeping up ---

    async def ensure(self, topics: Sequence[str]) -> None:
        """Index exactly these pubsub topics. Raise `ArchiveError`."""
        async with self._ensuring:
            for topic in self._indexes.keys() - set(topics):
                del self._indexes[topic]
                self._loaded.discard(topic)
            for topic in topics:
                if topic not in self._loaded:
                    # What is committed while we read comes in by `_stored`: twice is once.
                    index = self._indexes.setdefault(topic, KeyIndex())
                    await self._fill(index, topic, self._oldest())
                    self._loaded.add(topic)

    @property
    def ready(self) -> bool:
        """Whether there are topics, all indexed. (No topics on the wire would mean all of them.)"""
        return bool(self._loaded) and len(self._loaded) == len(self._indexes)

    async def _fill(self, index: KeyIndex, topic: str, start: int, contents: tuple[str, ...] = ()) -> None:
        """Read the keys of a topic, or of some of its content topics, into an index. Raise `ArchiveError` or
        `TooManyKeys`."""
        low, high = (start, b""), (MAX_TIME, b"")
        while True:
            page = await self._archive.keys(KeyQuery(topic, low, high, PAGE, content_topics=contents))
            for timestamp, digest in page:
                index.add(make_key(timestamp, digest))
            if contents and len(index) > MAX_CONTENT_KEYS:
                raise TooManyKeys
            self._bound()
            if len(page) < PAGE:
                return
            low = page[-1]

    def _stored(self, messages: Sequence[tuple[str, int, bytes]]) -> None:
        oldest = self._oldest()
        for topic, timestamp, digest in messages:
            index = self._indexes.get(topic)
            if index is not None and timestamp >= oldest:
                index.add(make_key(timestamp, digest))
        self._bound()

    def prune(self) -> int:
        """Forget what has left the window. Return how many messages there are then."""
        for index in self._indexes.values():
            index.remove_before(self._oldest())
        return len(self)

    def _oldest(self) -> int:
        start = SyncWindow.before(self._clock(), self._seconds + SLACK, self._jitter).start
        return max(start, self._floor)

    def _bound(self) -> None:
        if len(self) <= self._max_keys:
            return
        now = self._clock()
        while len(self) > self._max_keys * 9 // 10:
            firsts = [index.oldest for index in self._indexes.values()]
            start = min(time_of(first) for first in firsts if first is not None)
            self._floor = start + max(1, (now - start) // 16)
            for index in self._indexes.values():
                index.remove_before(self._floor)

    # --- what a session compares ---

    async def view(self, common: TopicFilter, window: SyncWindow) -> KeyView:
        """Return what we have of the topics in common. Raise `ArchiveError` or `TooManyKeys`."""
        names = common.pubsub_topics or tuple(self._indexes)
        indexes = {name: self._indexes[name] for name in names if name in self._indexes}
        if not common.content_topics:
            return MergedView(list(indexes.values()))
        found = KeyIndex()
        for name in indexes:
            await self._fill(found, name, window.start, common.content_topics)
        return found
