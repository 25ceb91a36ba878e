"""For tests of the archive: messages, a naive model to compare with, an archive that runs for a while."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from random import Random

import trio

from ipc_schema.config.archive import ArchiveDatabase, RetentionPolicy, parse_database_url
from ipc_schema.message import WakuMessage, encode_message, message_hash
from kernel_proc.archive import make_archive
from kernel_proc.archive.api import (
    ArchivedMessage,
    ArchiveState,
    CursorNotFound,
    HistoryPage,
    HistoryQuery,
)
from kernel_proc.archive.service import MessageArchive
from kernel_proc.archive.settings import ArchiveSettings
from tests.support.postgres import PostgresServer

SHARD = "/waku/2/rs/1/0"
NOW = 1_700_000_000_000_000_000


def make_message(
    timestamp: int, content: str = "/app/1/chat/proto", payload: bytes = b"payload", **more: object
) -> WakuMessage:
    """A message; `more` are its other fields."""
    return WakuMessage(payload, content, timestamp=timestamp, **more)  # type: ignore[arg-type]


def random_message(random: Random, timestamp: int, topics: int = 3, size: int = 20) -> WakuMessage:
    """A message with something in every field."""
    return WakuMessage(
        payload=random.randbytes(random.randrange(size)),
        content_topic=f"/app/1/chat-{random.randrange(topics)}/proto",
        version=random.randrange(3),
        timestamp=timestamp,
        meta=random.randbytes(random.randrange(5)),
        proof=random.randbytes(random.randrange(3)),
    )


class Model:
    """The archive as a list."""

    def __init__(self) -> None:
        self.rows: dict[bytes, tuple[str, WakuMessage]] = {}

    def add(self, pubsub_topic: str, message: WakuMessage) -> bytes:
        digest = message_hash(pubsub_topic, message)
        self.rows.setdefault(digest, (pubsub_topic, message))
        return digest

    def query(self, query: HistoryQuery) -> HistoryPage:
        if query.cursor is not None and query.cursor not in self.rows:
            raise CursorNotFound("cursor not found")
        cursor = None if query.cursor is None else (self.rows[query.cursor][1].timestamp, query.cursor)
        found = []
        for digest, (pubsub, message) in self.rows.items():
            key = (message.timestamp, digest)
            if (
                (query.pubsub_topic is None or pubsub == query.pubsub_topic)
                and (not query.content_topics or message.content_topic in query.content_topics)
                and (query.start is None or message.timestamp >= query.start)
                and (query.end is None or message.timestamp <= query.end)
                and (not query.hashes or digest in query.hashes)
                and (cursor is None or (key > cursor if query.forward else key < cursor))
            ):
                found.append(key)
        found.sort(reverse=not query.forward)
        page = found[: query.limit]
        next_cursor = page[-1][1] if len(found) > len(page) else None
        if not query.forward:
            page.reverse()
        return HistoryPage(tuple(self.stored(key[1], query.include_data) for key in page), next_cursor)

    def stored(self, digest: bytes, include_data: bool) -> ArchivedMessage:
        if not include_data:
            return ArchivedMessage(digest)
        pubsub, message = self.rows[digest]
        return ArchivedMessage(digest, pubsub, encode_message(message))


def offer(archive: MessageArchive, pubsub_topic: str, message: WakuMessage) -> bool:
    """Offer a message at the moment of its timestamp."""
    return archive.offer(pubsub_topic, message, message_hash(pubsub_topic, message), message.timestamp)


def offer_all(archive: MessageArchive, model: Model, messages: Iterable[tuple[str, WakuMessage]]) -> None:
    """Offer messages and put them into the model."""
    for pubsub_topic, message in messages:
        model.add(pubsub_topic, message)
        assert offer(archive, pubsub_topic, message)


async def all_pages(archive: MessageArchive, query: HistoryQuery) -> list[ArchivedMessage]:
    """Follow the cursors to the end; messages in ascending order."""
    pages: list[ArchivedMessage] = []
    while True:
        page = await archive.query(query)
        assert len(page.messages) <= query.limit
        pages = [*pages, *page.messages] if query.forward else [*page.messages, *pages]
        if page.cursor is None:
            return pages
        query = HistoryQuery(
            **{name: getattr(query, name) for name in HistoryQuery.__slots__ if name != "cursor"},
            cursor=page.cursor,
        )


async def stored_numbers(archive: MessageArchive) -> list[int]:
    """Return n of each stored message with timestamp NOW + n, oldest first."""
    pages = await all_pages(archive, HistoryQuery(limit=100, forward=True, include_data=True))
    return [message.message.timestamp - NOW for message in pages if message.message is not None]


def settings_for(database: Path | str, **more: object) -> ArchiveSettings:
    """Settings of an archive in a SQLite file or at a URL that keeps everything; `more` are its other
    fields."""
    if isinstance(database, str):
        place = parse_database_url(database, Path("/"))
    else:
        place = ArchiveDatabase(path=database)
    base = ArchiveSettings(database=place, retention=RetentionPolicy())
    return replace(base, **more)  # type: ignore[arg-type]


class StateLog:
    """Follows an archive's state, to wait for one."""

    def __init__(self) -> None:
        self.archive: MessageArchive | None = None
        self.seen: list[tuple[ArchiveState, str]] = []
        self._changed = trio.Event()

    def __call__(self) -> None:
        assert self.archive is not None
        self.seen.append((self.archive.state, self.archive.reason))
        self._changed.set()
        self._changed = trio.Event()

    async def reach(self, state: ArchiveState) -> str:
        """Wait until the archive is in this state; returns the reason it names."""
        assert self.archive is not None
        while self.archive.state is not state:
            await self._changed.wait()
        return self.archive.reason


@contextlib.asynccontextmanager
async def running(
    settings: ArchiveSettings,
    *,
    clock: Callable[[], int] = time.time_ns,
    log: StateLog | None = None,
    wait: bool = True,
    hold: trio.Event | None = None,
) -> AsyncIterator[MessageArchive]:
    """An archive that runs; with `wait`, from the moment it is READY. `hold`: see `hold_writes`."""
    log = log or StateLog()
    archive = make_archive(settings, clock=clock, changed=log)
    log.archive = archive
    if hold is not None:
        archive.hold_writes(hold)
    async with trio.open_nursery() as nursery:
        await nursery.start(archive.run)
        if wait:
            await log.reach(ArchiveState.READY)
        yield archive
        nursery.cancel_scope.cancel()


async def upkeep_done(server: PostgresServer, database: str) -> list[int]:
    """Wait until the kernels have created their partitions, and no work of theirs is under way there; the
    process ids of their connections then.

    Processes of the server that a test stops must not hold locks, and those that the kernel will use must
    exist.
    """
    ours = f"FROM pg_stat_activity WHERE application_name LIKE 'logos-kernel%' AND datname = '{database}'"
    while True:
        ((partitions,),) = server.execute("SELECT count(*) FROM pg_inherits", database)
        states = server.execute(f"SELECT pid, state {ours}")
        if partitions > 1 and all(state == "idle" for _, state in states):
            return [pid for pid, _ in states]
        await trio.sleep(0.01)
