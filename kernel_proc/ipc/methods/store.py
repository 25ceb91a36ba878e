"""store.query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.kernel.store import STORE_QUERY, StoreQueryReply, StoreQueryRequest, store_blobs
from ipc_schema.server import Answer, Call, Route
from ipc_schema.topics import PubsubTopic, TopicError, autoshard
from kernel_proc.archive.api import (
    ArchiveBusy,
    ArchiveUnavailable,
    BadQuery,
    CursorNotFound,
    HistoryQuery,
)
from kernel_proc.archive.service import MessageArchive
from kernel_proc.ipc.methods.service_errors import service_error
from kernel_proc.p2p.api import PeerIdText
from kernel_proc.protocols.requests import AllFailed
from kernel_proc.protocols.store_client import Found, History, StoreClient, local_history

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
        try:
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
        except BadQuery as error:
            raise IpcError(ErrorCode.BAD_REQUEST, f"store.query: {error}") from error
        if request.peer == own_peer_id:
            if archive is None:
                raise IpcError(ErrorCode.NOT_READY, "store is off on this node", retriable=False)
            history = await _own(archive, own_peer_id, wanted, request.max_messages)
        else:
            try:
                history = await client.query(
                    wanted,
                    peer=request.peer,
                    shard=_shard_of(request, shard_count),
                    max_messages=request.max_messages,
                    max_bytes=MAX_REPLY_BYTES,
                    deadline=call.answer_by,
                )
            except AllFailed as error:
                raise service_error(error) from error
        reply = StoreQueryReply(
            peer=history.peer_id,
            hashes=tuple(found.message_hash for found in history.messages),
            cursor=history.cursor,
        )
        return reply.to_body(), _blobs(history.messages) if request.include_data else ()

    return {STORE_QUERY: Route(query)}


async def _own(
    archive: MessageArchive, own_peer_id: PeerIdText, query: HistoryQuery, max_messages: int | None
) -> History:
    try:
        return await local_history(
            archive, own_peer_id, query, max_messages=max_messages, max_bytes=MAX_REPLY_BYTES
        )
    except (BadQuery, CursorNotFound) as error:
        raise IpcError(ErrorCode.BAD_REQUEST, f"store.query: {error}") from error
    except ArchiveBusy as error:
        raise IpcError(ErrorCode.BUSY, str(error), retry_after_ms=100) from error
    except ArchiveUnavailable as error:
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
