"""store.query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.kernel.store import STORE_QUERY, StoreQueryReply, StoreQueryRequest, store_blobs
from ipc_schema.server import Answer, Call, Route
from ipc_schema.topics import PubsubTopic, TopicError, autoshard
from kernel_proc.archive.api import (
    ArchiveBusy,
    ArchiveError,
    BadQuery,
    CursorNotFound,
    HistoryQuery,
)
from kernel_proc.archive.service import MessageArchive
from kernel_proc.p2p.api import PeerIdText
from kernel_proc.protocols.store_client import Found, StoreClient, local_history

MAX_REPLY_BYTES = 4 * 1024 * 1024
"""Maximum payload of one reply. The rest follows with the next request, from the cursor on."""


def store_routes(
    client: StoreClient,
    archive: MessageArchive | None,
    own_peer_id: PeerIdText,
    *,
    shard_count: int,
) -> Mapping[str, Route]:
    """Return the method. `archive` is this node's own, None if store is off."""

    async def query(call: Call) -> Answer:
        request = call.read(StoreQueryRequest)
        with archive_errors(STORE_QUERY):
            wanted = HistoryQuery(
                pubsub_topic=request.pubsub_topic,
                content_topics=request.content_topics,
                start=request.time_start,
                end=request.time_end,
                hashes=request.hashes,
                cursor=request.cursor,
                forward=request.forward,
                limit=request.limit,
                include_data=request.include_data,
            )
            if request.peer == own_peer_id:
                history = await local_history(
                    own_archive(archive),
                    own_peer_id,
                    wanted,
                    max_messages=request.max_messages,
                    max_bytes=MAX_REPLY_BYTES,
                )
            else:
                history = await client.query(
                    wanted,
                    peer=request.peer,
                    shard=_shard_of(request, shard_count),
                    max_messages=request.max_messages,
                    max_bytes=MAX_REPLY_BYTES,
                    deadline=call.answer_by,
                )
        reply = StoreQueryReply(
            peer=history.peer_id,
            hashes=tuple(found.message_hash for found in history.messages),
            cursor=history.cursor,
        )
        return reply.to_body(), _blobs(history.messages) if request.include_data else ()

    return {STORE_QUERY: Route(query)}


def own_archive(archive: MessageArchive | None) -> MessageArchive:
    """Return this node's archive. Raise `IpcError` if store is off."""
    if archive is None:
        raise IpcError(ErrorCode.NOT_READY, "store is off on this node", retriable=False)
    return archive


@contextmanager
def archive_errors(method: str) -> Iterator[None]:
    """Turn the archive's errors into those of the contract."""
    try:
        yield
    except (BadQuery, CursorNotFound) as error:
        raise IpcError(ErrorCode.BAD_REQUEST, f"{method}: {error}") from error
    except ArchiveBusy as error:
        raise IpcError(ErrorCode.BUSY, str(error), retry_after_ms=100) from error
    except ArchiveError as error:
        raise IpcError(ErrorCode.NOT_READY, str(error)) from error


def _shard_of(request: StoreQueryRequest, shard_count: int) -> int | None:
    """Return the single shard of the query, if it names one: stores on other shards do not have its
    messages."""
    try:
        if request.pubsub_topic is not None:
            return PubsubTopic.parse(request.pubsub_topic).shard
        if shard_count:
            shards = {autoshard(topic, shard_count) for topic in request.content_topics}
            return shards.pop() if len(shards) == 1 else None
    except TopicError:
        pass  # to a store, topics are arbitrary text
    return None


def _blobs(messages: Sequence[Found]) -> list[bytes]:
    return store_blobs(
        (found.pubsub_topic, found.message)
        for found in messages
        if found.pubsub_topic is not None and found.message is not None
    )
