"""Store service (13/WAKU2-STORE v3): answer history queries from the archive."""

from __future__ import annotations

import logging
from typing import Final

import trio

from ipc_schema.protobuf import ProtobufError
from kernel_proc.archive.api import (
    DEFAULT_PAGE,
    MAX_PAGE,
    ArchiveBusy,
    ArchivedMessage,
    ArchiveError,
    BadQuery,
    CursorNotFound,
    HistoryPage,
    HistoryQuery,
)
from kernel_proc.archive.service import MessageArchive
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Host, PeerIdText
from kernel_proc.protocols.ratelimit import RateLimiter
from kernel_proc.protocols.reply_head import NO_ID
from kernel_proc.protocols.requests import RequestService, ServiceLimits
from kernel_proc.protocols.store_codec import (
    PROTOCOL,
    KeyValue,
    StoreRequest,
    StoreResponse,
    StoreStatus,
    decode_request,
    encode_response,
)

log = logging.getLogger(__name__)

MAX_REQUEST: Final = 256 * 1024
MAX_PAGE_BYTES: Final = 4 * 1024 * 1024 - 64 * 1024
"""Maximum payload of one response. js-waku's decoder fails above 4 MiB; a larger page is cut short, with a
cursor."""
ENTRY_BYTES: Final = 512
"""Upper estimate of the hash, topic and tags of one entry."""
BUSY: Final = "SERVICE_UNAVAILABLE: too many queries are waiting"
UNAVAILABLE: Final = "SERVICE_UNAVAILABLE: the archive cannot be read now"
TOO_MANY: Final = "TOO_MANY_REQUESTS: Request rejected due to too many requests"


class StoreService:
    """Store v3 on a host. Mount `service`."""

    def __init__(
        self, host: Host, archive: MessageArchive, registry: Registry, limiter: RateLimiter | None = None
    ) -> None:
        self._archive = archive
        self._queries = registry.counter("store_queries")
        self._registry = registry
        self._seconds = 0.0
        """Duration of the last database query in seconds."""
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
            started = trio.current_time()
            page = await self._archive.query(history_query(request))
            self._seconds = trio.current_time() - started
        except BadQuery as error:
            # nwaku pads short hashes with zeros; an error is more helpful to the sender.
            return StoreResponse(request.request_id, StoreStatus.BAD_REQUEST, f"BAD_REQUEST: {error}")
        except CursorNotFound:
            # Without the request id, as in nwaku.
            return StoreResponse(
                "", StoreStatus.BAD_RESPONSE, "BAD_RESPONSE: archive error: DRIVER_ERROR: cursor not found"
            )
        except ArchiveBusy:
            return StoreResponse(request.request_id, StoreStatus.SERVICE_UNAVAILABLE, BUSY)
        except ArchiveError as error:
            # The cause may name the database host: log it, but do not send it to peers.
            log.debug("store query failed: %s", error)
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
    """Convert a request to an archive query. Raise BadQuery."""
    # 13/WAKU2-STORE: without a limit the service chooses; nwaku: 20, and never more than 100.
    values = request._asdict() | {"limit": min(request.limit or DEFAULT_PAGE, MAX_PAGE)}
    del values["request_id"]
    return HistoryQuery(**values)


def cut(page: HistoryPage, *, forward: bool) -> HistoryPage:
    """Shorten a page that is too large for one response, in paging direction, and set its cursor. At least
    one message is kept."""
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
    # Cursors are exclusive (13/WAKU2-STORE): the last entry returned in paging direction.
    cursor = kept[-1].message_hash
    return HistoryPage(tuple(kept if forward else kept[::-1]), cursor)
