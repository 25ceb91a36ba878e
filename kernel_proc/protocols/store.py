"""Store v3, service side: answers history queries from the archive."""

from __future__ import annotations

import logging
from typing import Final

import trio

from kernel_proc.archive.api import (
    DEFAULT_PAGE,
    MAX_PAGE,
    Archive,
    ArchiveBusy,
    ArchivedMessage,
    ArchiveError,
    BadQuery,
    CursorNotFound,
    HistoryPage,
    HistoryQuery,
)
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Host, PeerIdText
from kernel_proc.protocols.protobuf import ProtobufError
from kernel_proc.protocols.ratelimit import ServiceRateLimiter
from kernel_proc.protocols.requests import RequestService, ServiceLimits
from kernel_proc.protocols.store_codec import (
    NO_ID,
    PROTOCOL,
    KeyValue,
    StoreRequest,
    StoreResponse,
    StoreStatus,
    decode_request,
    encode_response,
)

__all__ = ["StoreService"]

log = logging.getLogger(__name__)

MAX_REQUEST: Final = 256 * 1024
MAX_PAGE_BYTES: Final = 4 * 1024 * 1024 - 64 * 1024
"""Data of one response. js-waku's decoder gives up above 4 MiB; a page that would be larger ends early, with
a cursor."""
ENTRY_BYTES: Final = 512
"""What hash, topic and tags of one entry take at most, or nearly."""
BUSY: Final = "SERVICE_UNAVAILABLE: too many queries are waiting"
UNAVAILABLE: Final = "SERVICE_UNAVAILABLE: the archive cannot be read now"
TOO_MANY: Final = "TOO_MANY_REQUESTS: Request rejected due to too many requests"


class StoreService:
    """Store v3 on a host. `service` is the protocol to mount."""

    def __init__(
        self, host: Host, archive: Archive, registry: Registry, limiter: ServiceRateLimiter | None = None
    ) -> None:
        self._archive = archive
        self._queries = registry.counter("store_queries")
        self._registry = registry
        self._seconds = 0.0
        """What the last query of the database took."""
        registry.add_source(lambda: [("store_time_seconds", {"phase": "query-db-time"}, self._seconds)])
        self.service = RequestService(
            host,
            PROTOCOL,
            self.answer,
            service=PROTOCOL,
            rejected=encode_response(StoreResponse(NO_ID, StoreStatus.TOO_MANY_REQUESTS, TOO_MANY)),
            limits=ServiceLimits(max_request=MAX_REQUEST, at_once=32, at_once_per_peer=8),
            limiter=limiter,
        )

    async def answer(self, _peer_id: PeerIdText, body: bytes) -> bytes:
        """One query."""
        self._queries.add()
        response = await self._answer(body)
        if response.status != StoreStatus.SUCCESS:
            self._registry.counter("store_errors", type=StoreStatus(response.status).name).add()
        return encode_response(response)

    async def _answer(self, body: bytes) -> StoreResponse:
        try:
            request = decode_request(body)
        except ProtobufError as error:
            return StoreResponse("", StoreStatus.BAD_REQUEST, f"decoding rpc failed: {error.nwaku}")
        try:
            begun = trio.current_time()
            page = await self._archive.query(history_query(request))
            self._seconds = trio.current_time() - begun
        except BadQuery as error:
            # nwaku pads short hashes with zeros; a refusal tells their sender more.
            return StoreResponse(request.request_id, StoreStatus.BAD_REQUEST, f"BAD_REQUEST: {error}")
        except CursorNotFound:
            # Without the id, as nwaku has it.
            return StoreResponse(
                "", StoreStatus.BAD_RESPONSE, "BAD_RESPONSE: archive error: DRIVER_ERROR: cursor not found"
            )
        except ArchiveBusy:
            return StoreResponse(request.request_id, StoreStatus.SERVICE_UNAVAILABLE, BUSY)
        except ArchiveError as error:
            # The cause names the database's place and is for our own log, never for a stranger.
            log.debug("store query not answered: %s", error)
            return StoreResponse(request.request_id, StoreStatus.SERVICE_UNAVAILABLE, UNAVAILABLE)
        page = cut(page, forward=request.forward)
        return StoreResponse(
            request.request_id,
            StoreStatus.SUCCESS,
            "OK",
            tuple(KeyValue(m.message_hash, m.data, m.pubsub_topic) for m in page.messages),
            page.cursor,
        )


def history_query(request: StoreRequest) -> HistoryQuery:
    """The query as the archive takes it. Raises BadQuery."""
    return HistoryQuery(
        pubsub_topic=request.pubsub_topic,
        content_topics=request.content_topics,
        start=request.time_start,
        end=request.time_end,
        hashes=request.hashes,
        cursor=request.cursor,
        forward=request.forward,
        limit=min(request.limit or DEFAULT_PAGE, MAX_PAGE),
        include_data=request.include_data,
    )


def cut(page: HistoryPage, *, forward: bool) -> HistoryPage:
    """The page, or its first part in the direction of paging, with a cursor, when it is too large to answer.
    At least one message stays."""
    order = page.messages if forward else page.messages[::-1]
    kept: list[ArchivedMessage] = []
    size = 0
    for message in order:
        size += len(message.data or b"") + ENTRY_BYTES
        if kept and size > MAX_PAGE_BYTES:
            break
        kept.append(message)
    if len(kept) == len(order):
        return page
    cursor = kept[-1].message_hash
    return HistoryPage(tuple(kept if forward else kept[::-1]), cursor)
