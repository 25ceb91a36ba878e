"""What the kernel could not deliver, from stores (13/WAKU2-STORE).

Hashes are asked for first: most of them are in JetStream already when another bridge was in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import nats.errors

from ipc_schema.errors import ErrorCode
from ipc_schema.message import format_hash
from ipc_schema.topics import shard_topic
from logos_bridge.duplicates import SKEW_NS
from logos_bridge.figures import BridgeFigures
from logos_bridge.headers import STORE, message_headers
from logos_bridge.id_set import IdSet
from logos_bridge.jetstream import JetStreamLink
from logos_bridge.positions import Span
from logos_bridge.shard_stream import ShardStream
from logos_bridge.subjects import encode_topic
from logos_client.exceptions import LogosError, NotReadyError
from logos_client.kernel import KernelClient

log = logging.getLogger(__name__)

_STORE_PROTOCOL: Final = "/vac/waku/store-query/3.0.0"
_STORES: Final = 3
"""Stores asked for each span besides the node's own archive: any of them may have a hole of its own."""
_ARCHIVED_NS: Final = 5_000_000_000
"""Stores have a message by then."""
_LOOK_SECONDS: Final = 1.0
_RETRY: Final = 5.0
_RETRY_MAX: Final = 60.0
_PAGE: Final = 100
_PAGES: Final = 2_000


class StoreFill:
    """Fills the missing spans of all shards, oldest first."""

    def __init__(
        self,
        kernel: KernelClient,
        peer_id: str,
        link: JetStreamLink,
        figures: BridgeFigures,
        streams: Sequence[ShardStream],
        topics: frozenset[str],
        max_age: float,
        clock: Callable[[], int],
    ) -> None:
        """`clock`: the wall clock in ns, by which spans are labelled."""
        self._kernel = kernel
        self._peer_id = peer_id
        self._link = link
        self._figures = figures
        self._streams = streams
        self._topics = topics
        self._max_age_ns = int(max_age * 1e9)
        self._clock = clock
        self.trouble = ""
        """Why a span cannot be filled now."""

    async def run(self) -> None:
        """Fill until cancelled."""
        wait = _RETRY
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for stream in self._streams:
                for span in stream.position.spans:
                    age = self._clock() - span[1]
                    if age < _ARCHIVED_NS or span not in stream.position.spans:
                        continue
                    if age > self._max_age_ns:
                        log.error("shard %d: %s was never filled: given up", stream.shard, _spoken(span))
                        self._figures.count("bridge_out_messages", "result", "given_up_spans")
                        stream.position = stream.position.filled(span)
                        continue
                    try:
                        await self._fill(stream, span)
                    except (LogosError, *_NATS) as error:
                        self.trouble = f"{_spoken(span)} of shard {stream.shard} is missing: {error}"
                        log.warning("%s", self.trouble)
                        await asyncio.sleep(wait)
                        wait = min(wait * 2, _RETRY_MAX)
                    else:
                        wait, self.trouble = _RETRY, ""
                        stream.position = stream.position.filled(span)

    async def read_ids(self, stream: ShardStream, seen_ns: int) -> None:
        """Make sure that the guard knows what the window of JetStream does not cover any more."""
        loop = asyncio.get_running_loop()
        while (since := stream.guard.reading_needed(seen_ns, self._clock(), loop.time())) is not None:
            begun = loop.time()
            try:
                ids = await self._ids(stream, since)
            except (*_NATS, sqlite3.Error) as error:  # the latter: no room for temporary files
                log.debug("reading ids of shard %d: %s", stream.shard, error)
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            self._figures.count("bridge_out_id_readings")
            stream.guard.read(ids, since, begun)

    async def _ids(self, stream: ShardStream, since: int) -> IdSet:
        found = IdSet()
        ids = self._link.ids_since(self._link.layout.messages, f"{stream.subject}.>", since)
        try:
            async with contextlib.aclosing(ids):
                async for message_id in ids:
                    found.add([message_id])
        except BaseException:
            found.close()
            raise
        return found

    async def _fill(self, stream: ShardStream, span: Span) -> None:
        """Publish what stores have of a span. Raises `LogosError` if none of them answered."""
        others = [peer.peer_id for peer in await self._kernel.peers() if _STORE_PROTOCOL in peer.protocols]
        answered = False
        failure: LogosError = NotReadyError(ErrorCode.NOT_READY, "no store is connected")
        # The own archive was down, or without peers, when the span was missed: alone it proves nothing.
        for peer in (self._peer_id, *others[:_STORES]):
            try:
                async for hashes in self._hashes(stream, span, peer):
                    await self._publish(stream, span, peer, hashes)
            except LogosError as error:
                failure = failure if peer == self._peer_id else error
            else:
                answered = answered or peer != self._peer_id
        if not answered:
            raise failure
        log.info("shard %d: %s filled from stores", stream.shard, _spoken(span))

    async def _hashes(self, stream: ShardStream, span: Span, peer: str) -> AsyncIterator[tuple[bytes, ...]]:
        cursor = None
        while True:
            page = await self._kernel.store_query(
                tuple(self._topics)[:_PAGE],
                pubsub_topic=shard_topic(self._kernel.network.cluster, stream.shard),
                time_start=span[0] - SKEW_NS,
                time_end=span[1] + SKEW_NS,
                cursor=cursor,
                limit=_PAGE,
                max_messages=_PAGES,
                peer=peer,
            )
            yield page.hashes
            cursor = page.cursor
            if cursor is None:
                return

    async def _publish(self, stream: ShardStream, span: Span, peer: str, hashes: Sequence[bytes]) -> None:
        await self.read_ids(stream, span[0])
        wanted = [one for one in hashes if not stream.guard.known(format_hash(one))]
        for start in range(0, len(wanted), _PAGE):
            chunk = wanted[start : start + _PAGE]
            page = await self._kernel.store_query(hashes=chunk, include_data=True, limit=_PAGE, peer=peer)
            await self.read_ids(stream, span[0])
            async with asyncio.TaskGroup() as group:
                for digest, stored in zip(page.hashes, page.messages, strict=True):
                    message = stored.message
                    if self._topics and message.content_topic not in self._topics:
                        continue
                    subject = f"{stream.subject}.{encode_topic(message.content_topic)}"
                    headers = message_headers(format_hash(digest), message, STORE)
                    group.create_task(self._link.store(subject, message.payload, headers))
            self._figures.count("bridge_out_messages", "result", "from_store", by=len(page.hashes))


_NATS: Final = (nats.errors.Error, TimeoutError, OSError)


def _spoken(span: Span) -> str:
    begin = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(span[0] / 1e9))
    return f"{(span[1] - span[0]) / 1e9:.1f} s from {begin} UTC"
