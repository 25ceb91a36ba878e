"""Store v3, client side: ask other nodes for history, and believe only what can be checked."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

import trio

from ipc_schema.message import MessageDecodeError, WakuMessage, decode_message, message_hash
from kernel_proc.archive.api import Archive, HistoryQuery
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Host, PeerIdText
from kernel_proc.protocols.peer_select import ServicePeerChoice
from kernel_proc.protocols.protobuf import ProtobufError
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

__all__ = ["CLIENT_PROTOCOLS", "Found", "History", "StoreClient", "local_history", "read_page"]

SERVICE: Final = "store"
CLIENT_PROTOCOLS: Final = (PROTOCOL,)
PATIENCE: Final = 10.0
"""Seconds for one page of one peer."""
ENTRY_BYTES: Final = 1024
"""Room for what a message has around it: hash, topic, tags."""
MAX_RESPONSE: Final = 32 * 1024 * 1024
OVERHEAD: Final = 64 * 1024
THREAD_BYTES: Final = 1024 * 1024
"""Answers from this size on are read in a thread: some three milliseconds of work."""


class Found(NamedTuple):
    """One message that a peer has. Without data only the hash is known, and that only by the peer's word."""

    message_hash: bytes
    pubsub_topic: str | None = None
    message: WakuMessage | None = None
    size: int = 0
    """Encoded bytes of the message."""


class History(NamedTuple):
    """What a peer answered, in the order of (timestamp, hash), also when it was paged backward."""

    peer_id: PeerIdText
    messages: tuple[Found, ...]
    cursor: bytes | None
    """For the next page; None: there is nothing more."""


class StoreClient:
    """Asks for one page or follows the cursors."""

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
        """Ask the named peer, or one good peer after another until one answers the first page.

        With `max_messages` the cursors are followed with the same peer until that many messages or
        `max_bytes` of them have come, or there are no more. When a later page fails, what has come is
        returned, with the cursor from which to go on. `deadline` is a time of trio's clock. Raises AllFailed.
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
                messages, cursor = await self._peers.in_its_pace(
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
            return await self._ask(peer_id, query, seconds)
        except CallError as error:
            kind = str(error.status) if isinstance(error, RequestRefused) else type(error).__name__
            self._registry.counter("store_client_errors", type=kind).add()
            raise

    async def _ask(
        self, peer_id: PeerIdText, query: HistoryQuery, seconds: float
    ) -> tuple[tuple[Found, ...], bytes | None]:
        request = StoreRequest(
            request_id=secrets.token_hex(10),
            include_data=query.include_data,
            pubsub_topic=query.pubsub_topic,
            content_topics=query.content_topics,
            time_start=query.start,
            time_end=query.end,
            hashes=query.hashes,
            cursor=query.cursor,
            forward=query.forward,
            limit=query.limit,
        )
        entry = ENTRY_BYTES + (self._message_size if query.include_data else 0)
        body = await call(
            self._host,
            peer_id,
            CLIENT_PROTOCOLS,
            encode_request(request),
            max_response=min(MAX_RESPONSE, OVERHEAD + query.limit * entry),
            deadline=seconds,
        )
        read = partial(_read, query, request.request_id, body)
        if len(body) < THREAD_BYTES:
            return read()
        # A full page of large messages is 15 MB to take apart and to hash: 40 ms of the loop otherwise.
        return await trio.to_thread.run_sync(read)


def _read(query: HistoryQuery, request_id: str, body: bytes) -> tuple[tuple[Found, ...], bytes | None]:
    try:
        response = decode_response(body)
    except ProtobufError as error:
        raise BadAnswer(f"undecodable answer: {error}") from error
    return read_page(query, request_id, response)


def read_page(
    query: HistoryQuery, request_id: str, response: StoreResponse
) -> tuple[tuple[Found, ...], bytes | None]:
    """What a response says, if it is an answer to the query and true as far as can be seen.

    Raises Refused for a status that is no success, BadAnswer for anything that was not asked for.
    """
    if not 200 <= response.status < 300:
        # Whatever its id: nwaku leaves it empty in some, and cannot know it when it refuses to read.
        final = response.status == StoreStatus.BAD_REQUEST
        raise RequestRefused(response.status, response.description, final=final)
    if response.request_id not in (request_id, ""):  # go-waku's service leaves it out, its client lets it
        raise BadAnswer("an answer to another request")
    if len(response.messages) > query.limit:
        raise BadAnswer(f"{len(response.messages)} messages, {query.limit} were asked for")
    asked = frozenset(query.hashes)
    found = tuple(_check(query, asked, entry) for entry in response.messages)
    if len({message.message_hash for message in found}) < len(found):
        raise BadAnswer("a message stands twice")
    cursor = response.cursor
    if cursor is not None and (len(cursor) != 32 or cursor == query.cursor):
        raise BadAnswer("a cursor that leads nowhere")
    # An empty page with a cursor would lead on for ever.
    return found, cursor if found else None


def _check(query: HistoryQuery, asked: frozenset[bytes], entry: KeyValue) -> Found:
    digest = entry.message_hash
    if digest is None or len(digest) != 32:
        raise BadAnswer("a message without a hash")
    if asked and digest not in asked:
        raise BadAnswer("a message that was not asked for")
    if not query.include_data:
        return Found(digest)
    topic = entry.pubsub_topic or query.pubsub_topic
    if entry.data is None or topic is None:
        raise BadAnswer("a message without its data")
    try:
        message = decode_message(entry.data)
    except MessageDecodeError as error:
        raise BadAnswer(f"an undecodable message: {error}") from error
    if message_hash(topic, message) != digest:
        raise BadAnswer("a message that is not what its hash says")
    if (
        (query.pubsub_topic is not None and topic != query.pubsub_topic)
        or (query.content_topics and message.content_topic not in query.content_topics)
        or (query.start is not None and message.timestamp < query.start)
        or (query.end is not None and message.timestamp > query.end)
    ):
        raise BadAnswer("a message outside the query")
    return Found(digest, topic, message, len(entry.data))


class _Pages:
    """Pages as they come, in the direction of the query, within bounds of count and bytes."""

    def __init__(self, query: HistoryQuery, max_messages: int | None, max_bytes: int) -> None:
        self._query = query
        self._follow = max_messages is not None
        self._room = max_messages if max_messages is not None else query.limit
        self._bytes = max_bytes
        self._kept: list[Found] = []
        self._cursor: bytes | None = query.cursor
        self.done = False

    def following(self) -> HistoryQuery:
        """The query for the next page."""
        return replace(self._query, cursor=self._cursor, limit=min(self._query.limit, self._room))

    def add(self, messages: Sequence[Found], cursor: bytes | None) -> None:
        """Keep a page (ascending), or its first part in the direction of the query when it is too large; one
        message is always kept."""
        self._cursor = cursor
        for message in messages if self._query.forward else reversed(messages):
            self._bytes -= message.size
            if self._bytes < 0 and self._kept:
                self._cursor = self._kept[-1].message_hash
                self.done = True
                return
            self._kept.append(message)
            self._room -= 1
        self.done = not self._follow or self._cursor is None or self._room <= 0 or self._bytes <= 0

    def history(self, peer_id: PeerIdText) -> History:
        """Everything that was kept, ascending."""
        kept = self._kept if self._query.forward else self._kept[::-1]
        return History(peer_id, tuple(kept), self._cursor)


async def local_history(
    archive: Archive, peer_id: PeerIdText, query: HistoryQuery, *, max_messages: int | None, max_bytes: int
) -> History:
    """The same from the node's own archive. Raises ArchiveError."""
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
