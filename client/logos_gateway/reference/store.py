"""`/store/v3/messages`: history, from this node's archive or another store."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.datastructures import QueryParams
from starlette.responses import Response

from ipc_schema.config.addresses import check_multiaddr, peer_id_in
from ipc_schema.errors import ErrorCode
from ipc_schema.kernel.store import MAX_STORE_CONTENT_TOPICS, MAX_STORE_HASHES
from ipc_schema.message import format_hash
from logos_client.exceptions import DeadlineError, LogosError
from logos_client.kernel import KernelClient, StorePage
from logos_gateway.bodies import TextRefusal, json_response
from logos_gateway.json_values import write_message
from logos_gateway.reference.services import NO_PEER, SERVICE_SECONDS, attempts_of
from logos_gateway.state import gateway_of, kernel_for

router = APIRouter(prefix="/store/v3", tags=["store"])

_TRUE: Final = frozenset({"y", "yes", "true", "1", "on"})
_FALSE: Final = frozenset({"n", "no", "false", "0", "off"})
_MAX_PAGE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreParameters:
    """A store query from the reference's parameters."""

    peer: str | None
    include_data: bool
    pubsub_topic: str | None
    content_topics: tuple[str, ...]
    time_start: int | None
    time_end: int | None
    hashes: tuple[bytes, ...]
    cursor: bytes | None
    forward: bool
    limit: int


def parse_parameters(query: QueryParams) -> StoreParameters:
    """Read the query string by the reference's rules, unknown names ignored. Raises `TextRefusal`."""

    def text(name: str) -> str | None:
        return query.get(name) or None

    return StoreParameters(
        peer=_peer(text("peerAddr")),
        include_data=_boolean(text("includeData")),
        pubsub_topic=text("pubsubTopic"),
        content_topics=_list("contentTopics", text("contentTopics"), MAX_STORE_CONTENT_TOPICS),
        time_start=_time(text("startTime")),
        time_end=_time(text("endTime")),
        hashes=tuple(_hash(one) for one in _list("hashes", text("hashes"), MAX_STORE_HASHES)),
        cursor=None if text("cursor") is None else _hash(text("cursor") or ""),
        forward=query.get("ascending", "true") == "true",
        limit=_page_size(text("pageSize")),
    )


def _list(name: str, text: str | None, most: int) -> tuple[str, ...]:
    items = tuple(item.strip() for item in text.split(",") if item.strip()) if text else ()
    if len(items) > most:
        raise TextRefusal(400, f"{name}: {len(items)} elements, at most {most} are allowed")
    return items


def _peer(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        check_multiaddr(text)
        if peer_id_in(text) is None:
            raise ValueError("Invalid MultiAddress: the peer id is missing")
    except ValueError as error:
        raise TextRefusal(400, f"Failed parsing remote peer info: {error}") from None
    return text


def _boolean(text: str | None) -> bool:
    word = (text or "false").lower()
    if word not in _TRUE | _FALSE:
        raise TextRefusal(400, f"include data parsing error: cannot interpret as a bool: {text}")
    return word in _TRUE


def _integer(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise TextRefusal(400, f"{what} parsing error: invalid integer: {text}") from None


def _time(text: str | None) -> int | None:
    value = 0 if text is None else _integer(text, "time")
    return min(value, 2**63 - 1) if value > 0 else None


def _hash(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text.removeprefix("0x"))
    except ValueError as error:
        raise TextRefusal(400, f"Exception converting hex string to bytes: {error}") from None
    if len(digest) != 32:
        raise TextRefusal(400, f"waku message hash parsing error: invalid hash length: {len(digest)}")
    return digest


def _page_size(text: str | None) -> int:
    size = 20 if text is None else _integer(text, "page size")
    return size if 0 < size <= _MAX_PAGE else 20 if size == 0 else _MAX_PAGE


@router.get("/messages", summary="Query history")
async def messages(request: Request) -> Response:
    """Return one page of history. Without `peerAddr`, from this node's own archive if it has one."""
    kernel = kernel_for(request, "/store")
    asked = parse_parameters(request.query_params)
    own = asked.peer is None and await gateway_of(request).links.mounts("Store")
    try:
        page = await _query(kernel, asked, own=own)
    except DeadlineError:
        raise TextRefusal(500, "No history response received (timeout)") from None
    except LogosError as error:
        return _failure(error, own=own)
    return json_response(_body(200, "OK", page, include_data=asked.include_data))


async def _query(kernel: KernelClient, asked: StoreParameters, *, own: bool) -> StorePage:
    peer = str((await kernel.info(["MyPeerId"]))["MyPeerId"]) if own else asked.peer
    return await kernel.store_query(
        asked.content_topics,
        pubsub_topic=asked.pubsub_topic,
        time_start=asked.time_start,
        time_end=asked.time_end,
        hashes=asked.hashes,
        cursor=asked.cursor,
        forward=asked.forward,
        limit=asked.limit,
        include_data=asked.include_data,
        peer=peer,
        timeout=SERVICE_SECONDS,
    )


def _failure(error: LogosError, *, own: bool) -> Response:
    """Return another store's status in the body, with HTTP 200; errors of our archive are 500."""
    if own:
        raise TextRefusal(500, error.message)
    attempts = attempts_of(error)
    statuses = [(one["status"], one) for one in attempts if isinstance(one.get("status"), int)]
    if any(status == 429 for status, _ in statuses) or error.code is ErrorCode.RATE_LIMITED:
        raise TextRefusal(429, "Request rate limit reached")
    if statuses:
        status, attempt = statuses[-1]
        return json_response(
            _body(status, str(attempt.get("error", error.message)), None, include_data=False)
        )
    if error.code is ErrorCode.NO_PEERS and not attempts:
        raise TextRefusal(412, NO_PEER)
    if error.code is ErrorCode.BAD_REQUEST:
        raise TextRefusal(400, error.message)
    raise TextRefusal(500, f"Error occurred in queryFut.read() [{error.message}]")


def _body(status: Any, description: str, page: StorePage | None, *, include_data: bool) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    if page is not None and include_data:
        found = [
            {
                "messageHash": format_hash(stored.message_hash),
                "message": write_message(stored.message, proof=None),
                "pubsubTopic": stored.pubsub_topic,
            }
            for stored in page.messages
        ]
    elif page is not None:
        found = [{"messageHash": format_hash(digest)} for digest in page.hashes]
    body: dict[str, Any] = {
        "requestId": secrets.token_hex(10),
        "statusCode": status,
        "statusDesc": description,
        "messages": found,
    }
    if page is not None and page.cursor is not None:
        body["paginationCursor"] = format_hash(page.cursor)
    return body
