"""An archive that is a list: what the rules of history queries come to, written as plainly as possible."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from ipc_schema.message import WakuMessage, encode_message, message_hash
from kernel_proc.archive.api import (
    ArchivedMessage,
    ArchiveError,
    ArchiveState,
    Backlog,
    CursorNotFound,
    HistoryPage,
    HistoryQuery,
    KeyQuery,
    StoredMessages,
    TopicSpan,
)
from kernel_proc.archive.service import MessageArchive
from kernel_proc.metrics import Sample


class MemoryArchive(MessageArchive):
    """An archive without an engine, and with a settable error."""

    state = ArchiveState.READY
    reason = ""

    def __init__(self) -> None:
        self.rows: dict[bytes, tuple[str, WakuMessage]] = {}
        self.error: ArchiveError | None = None
        self.queries: list[HistoryQuery] = []
        self.listeners: list[StoredMessages] = []
        self.held: trio.Event | None = None

    def backlog(self) -> Backlog:
        return Backlog()

    def put(self, topic: str, message: WakuMessage) -> bytes:
        digest = message_hash(topic, message)
        self.rows[digest] = (topic, message)
        return digest

    def offer(self, pubsub_topic: str, message: WakuMessage, message_hash: bytes, received_ns: int) -> bool:
        self.rows[message_hash] = (pubsub_topic, message)
        return True

    async def query(self, query: HistoryQuery) -> HistoryPage:
        await trio.lowlevel.checkpoint()
        self.queries.append(query)
        if self.error is not None:
            raise self.error
        ordered = sorted(
            (message.timestamp, digest, topic, message) for digest, (topic, message) in self.rows.items()
        )
        found = [
            ArchivedMessage(digest, topic, encode_message(message))
            if query.include_data
            else ArchivedMessage(digest)
            for timestamp, digest, topic, message in ordered
            if (query.pubsub_topic is None or topic == query.pubsub_topic)
            and (not query.content_topics or message.content_topic in query.content_topics)
            and (query.start is None or timestamp >= query.start)
            and (query.end is None or timestamp <= query.end)
            and (not query.hashes or digest in query.hashes)
        ]
        if not query.forward:
            found.reverse()
        if query.cursor is not None:
            if query.cursor not in self.rows:
                raise CursorNotFound("cursor not found")
            key = (self.rows[query.cursor][1].timestamp, query.cursor)
            behind = [(self.rows[m.message_hash][1].timestamp, m.message_hash) for m in found]
            found = [
                m for m, at in zip(found, behind, strict=True) if (at > key if query.forward else at < key)
            ]
        page, rest = found[: query.limit], found[query.limit :]
        cursor = page[-1].message_hash if rest else None
        return HistoryPage(tuple(page if query.forward else page[::-1]), cursor)

    async def insert(self, pubsub_topic: str, message: WakuMessage, message_hash: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        if message.ephemeral:
            return False
        self.rows[message_hash] = (pubsub_topic, message)
        for listener in self.listeners:
            listener([(pubsub_topic, message.timestamp, message_hash)])
        return True

    def add_listener(self, stored: StoredMessages) -> None:
        self.listeners.append(stored)

    def hold_writes(self, until: trio.Event) -> None:
        self.held = until

    async def keys(self, query: KeyQuery) -> list[tuple[int, bytes]]:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        found = sorted(
            (message.timestamp, digest)
            for digest, (topic, message) in self.rows.items()
            if topic == query.pubsub_topic
            and (not query.content_topics or message.content_topic in query.content_topics)
            and query.low < (message.timestamp, digest) < query.high
        )
        return (found if query.forward else found[::-1])[: query.limit]

    async def spans(self) -> list[TopicSpan]:
        await trio.lowlevel.checkpoint()
        times: dict[str, list[int]] = {}
        for topic, message in self.rows.values():
            times.setdefault(topic, []).append(message.timestamp)
        return [TopicSpan(topic, len(some), min(some), max(some)) for topic, some in sorted(times.items())]

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()

    def samples(self) -> Iterable[Sample]:
        return ()
