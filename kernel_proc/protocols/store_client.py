"""Store client (13/WAKU2-STORE v3): query other nodes for history, and verify everything that can be
verified."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Final, NamedTuple

import trio

from ipc_schema.message import MessageDecodeError, WakuMessage, decode_message, message_hash
from ipc_schema.protobuf import ProtobufError
from kernel_proc.archive.api import HistoryQuery
from kernel_proc.archive.service import MessageArchive
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Host, PeerIdText
from kernel_proc.protocols.peer_select import ServicePeerChoice
from kernel_proc.protocols.requests import BadAnswer, CallError, RequestRefused, call
from kernel_proc.protocols.store_codec import (
    PROTOCOL,
    KeyValue,
    StoreRequest,
    StoreResponse,
    StoreStatus,
    decode_response,
    encode_request,
)

SERVICE: Final = "store"
CLIENT_PROTOCOLS: Final = (PROTOCOL,)
PATIENCE: Final = 10.0
"""Seconds per page and peer."""
ENTRY_BYTES: Final = 1024
"""Allowance for the hash, topic and tags around a message."""
MAX_RESPONSE: Final = 32 * 1024 * 1024
OVERHEAD: Final = 64 * 1024
THREAD_BYTES: Final = 1024 * 1024
"""Responses from this size on are decoded in a thread (about 3 ms of work)."""


class Found(NamedTuple):
    """A message in a peer's store. Without data only its hash is known, and that is unverified."""

    message_hash: bytes
    pubsub_topic: str | None = None
    message: WakuMessage | None = None
    size: int = 0
    """Encoded size of the message in bytes."""


class History(NamedTuple):
    """A query result, ordered by (timestamp, hash) even when paged backward."""

    peer_id: PeerIdText
    messages: tuple[Found, ...]
    cursor: bytes | None
    """Cursor of the next page; None: no more messages."""


class StoreClient:
    """Query one page, or follow the cursors."""

    def __init__(
        self, host: Host, peers: ServicePeerChoice, registry: Registry, *, max_message_size: int
    ) -> None:
        self._host = host
        self._peers = peers
        self._registry = registry
        self._message_size = max_message_size

    async def query(
        self,
        query: HistoryQuery,
        *,
        peer: str | None = None,
        shard: int | None = None,
        max_messages: int | None = None,
        max_bytes: int = MAX_RESPONSE,
        deadline: float,
    ) -> History:
        """Query the named peer, or the best ones until one answers the first page.

        With `max_messages`, follow the cursors at the same peer until that many messages or `max_bytes` have
        arrived, or there are no more. If a later page fails, return what has arrived, with the cursor to
        continue from. `deadline` is on the trio clock. Raise AllFailed.
        """

        async def first(peer_id: PeerIdText, seconds: float) -> tuple[tuple[Found, ...], bytes | None]:
            return await self._page(peer_id, _Pages(query, max_messages, max_bytes).following(), seconds)

        peer_id, (messages, cursor) = await self._peers.ask(
            SERVICE,
            CLIENT_PROTOCOLS,
            first,
            named=peer,
            shard=shard,
            deadline=deadline,
            patience=PATIENCE,
        )
        pages = _Pages(query, max_messages, max_bytes)
        pages.add(messages, cursor)
        while not pages.done:
            left = deadline - trio.current_time()
            if left <= 0:
                break
            try:
                messages, cursor = await self._peers.paced(
                    peer_id,
                    SERVICE,
                    partial(self._page, peer_id, pages.following(), min(PATIENCE, left)),
                    deadline=deadline,
                )
            except CallError:
                self._peers.ranking.failed(peer_id, SERVICE)
                break
            pages.add(messages, cursor)
        return pages.history(peer_id)

    async def _page(
        self, peer_id: PeerIdText, query: HistoryQuery, seconds: float
    ) -> tuple[tuple[Found, ...], bytes | None]:
        try:
            messages, cursor = await self._ask(peer_id, query, seconds)
        except CallError as error:
            self._registry.counter("store_client_errors", type=error.kind).add()
            raise
        self._count(messages)
        return messages, cursor

    def _count(self, messages: Sequence[Found]) -> None:
        for found in messages:
            shard = (found.pubsub_topic or "").rpartition("/")[2]
            if shard.isdecimal():
                self._registry.counter("store_fleet_msg_count", shard=shard).add()
                self._registry.counter("store_fleet_msg_size_bytes", shard=shard).add(found.size)

    async def _ask(
        self, peer_id: PeerIdText, query: HistoryQuery, seconds: float
    ) -> tuple[tuple[Found, ...], bytes | None]:
        request = StoreRequest(secrets.token_hex(10), **asdict(query))
        entry = ENTRY_BYTES + (self._message_size if query.include_data else 0)
        body = await call(
            self._host,
            peer_id,
            CLIENT_PROTOCOLS,
            encode_request(request),
            decode=bytes,
            max_response=min(MAX_RESPONSE, OVERHEAD + query.limit * entry),
            deadline=seconds,
        )
        read = partial(_read, query, request.request_id, body)
        if len(body) < THREAD_BYTES:
            return read()
        # Decoding and hashing a full page of large messages (15 MB) would block the event loop for 40 ms.
        return await trio.to_thread.run_sync(read)


def _read(query: HistoryQuery, request_id: str, body: bytes) -> tuple[tuple[Found, ...], bytes | None]:
    try:
        response = decode_response(body)
    except ProtobufError as error:
        raise BadAnswer(f"undecodable response: {error}") from error
    return read_page(query, request_id, response)


def read_page(
    query: HistoryQuery, request_id: str, response: StoreResponse
) -> tuple[tuple[Found, ...], bytes | None]:
    """Verify that a response answers the query, and return its messages and cursor.

    Raise RequestRefused for an error status, BadAnswer for anything that was not requested.
    """
    if not 200 <= response.status < 300:
        # Check the status before the id: nwaku leaves the id empty in some errors, and cannot know it before
        # reading.
        final = response.status == StoreStatus.BAD_REQUEST
        raise RequestRefused(response.status, response.description, final=final)
    if response.request_id not in (request_id, ""):  # go-waku's service omits it, and its client accepts that
        raise BadAnswer("response has another request id")
    if len(response.messages) > query.limit:
        raise BadAnswer(f"{len(response.messages)} messages, {query.limit} requested")
    asked = frozenset(query.hashes)
    found = tuple(_check(query, asked, entry) for entry in response.messages)
    if len({message.message_hash for message in found}) < len(found):
        raise BadAnswer("duplicate message")
    cursor = response.cursor
    if cursor is not None and (len(cursor) != 32 or cursor == query.cursor):
        raise BadAnswer("invalid cursor")
    # A cursor on an empty page would never end.
    return found, cursor if found else None


def _check(query: HistoryQuery, asked: frozenset[bytes], entry: KeyValue) -> Found:
    digest = entry.message_hash
    if digest is None or len(digest) != 32:
        raise BadAnswer("message without a hash")
    if asked and digest not in asked:
        raise BadAnswer("message was not requested")
    if not query.include_data:
        return Found(digest)
    topic = entry.pubsub_topic or query.pubsub_topic
    if entry.data is None or topic is None:
        raise BadAnswer("message without data")
    try:
        message = decode_message(entry.data)
    except MessageDecodeError as error:
        raise BadAnswer(f"undecodable message: {error}") from error
    # 14/WAKU2-MESSAGE: recompute the deterministic hash, so that a store node cannot substitute content.
    if message_hash(topic, message) != digest:
        raise BadAnswer("message does not match its hash")
    if (
        (query.pubsub_topic is not None and topic != query.pubsub_topic)
        or (query.content_topics and message.content_topic not in query.content_topics)
        # Both bounds inclusive: 13/WAKU2-STORE excludes the end, nwaku includes it.
        or (query.start is not None and message.timestamp < query.start)
        or (query.end is not None and message.timestamp > query.end)
    ):
        raise BadAnswer("message outside the query")
    return Found(digest, topic, message, len(entry.data))


class _Pages:
    """Accumulate pages in query direction, within limits of count and bytes."""

    def __init__(self, query: HistoryQuery, max_messages: int | None, max_bytes: int) -> None:
        self._query = query
        self._follow = max_messages is not None
        self._room = max_messages if max_messages is not None else query.limit
        self._bytes = max_bytes
        self._kept: list[Found] = []
        self._cursor: bytes | None = query.cursor
        self.done = False

    def following(self) -> HistoryQuery:
        return replace(self._query, cursor=self._cursor, limit=min(self._query.limit, self._room))

    def add(self, messages: Sequence[Found], cursor: bytes | None) -> None:
        """Add a page (ascending), cut short in query direction if it is too large. At least one message is
        kept."""
        self._cursor = cursor
        for message in messages if self._query.forward else reversed(messages):
            self._bytes -= message.size
            # The cursor of 13/WAKU2-STORE is the hash of the last message of a page: cutting a page short, we
            # can name the last one kept and lose nothing.
            if self._bytes < 0 and self._kept:
                self._cursor = self._kept[-1].message_hash
                self.done = True
                return
            self._kept.append(message)
            self._room -= 1
        self.done = not self._follow or self._cursor is None or self._room <= 0 or self._bytes <= 0

    def history(self, peer_id: PeerIdText) -> History:
        """Return everything that was kept, ascending."""
        kept = self._kept if self._query.forward else self._kept[::-1]
        return History(peer_id, tuple(kept), self._cursor)


async def local_history(
    archive: MessageArchive,
    peer_id: PeerIdText,
    query: HistoryQuery,
    *,
    max_messages: int | None,
    max_bytes: int,
) -> History:
    """Query the node's own archive in the same way. Raise ArchiveError."""
    pages = _Pages(query, max_messages, max_bytes)
    while not pages.done:
        page = await archive.query(pages.following())
        pages.add(
            [
                Found(found.message_hash, found.pubsub_topic, found.message, len(found.data or b""))
                for found in page.messages
            ],
            page.cursor,
        )
    return pages.history(peer_id)
