"""`/kernel/v1/events`: live events of the kernel as server-sent events, for operators."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from ipc_schema.message import format_hash
from logos_client.exceptions import LogosError
from logos_client.kernel import KernelClient
from logos_client.kernel_events import (
    HealthEvent,
    KernelEvent,
    KernelFound,
    KernelMessage,
    PeerEvent,
    PeersSnapshot,
    source_name,
)
from logos_gateway.apps.sse import EventStreamResponse, sse_event
from logos_gateway.http_access import scopes_of
from logos_gateway.json_values import encode_json, to_base64
from logos_gateway.merging import merge
from logos_gateway.operator.pulse import Pulse
from logos_gateway.problems import ProblemError
from logos_gateway.state import gateway_of
from logos_gateway.tokens import Scope

router = APIRouter(prefix="/kernel/v1", tags=["kernel"])

_FEED_BYTES: Final = 1 << 20
_PARTS: Final = ("health", "peers", "figures", "apps", "payload")


@router.get("/events", summary="Live events of the kernel")
async def events(request: Request) -> Response:
    """Query: `shards=0,1` (messages of these), `health=true`, `peers=true`, `payload=true` (else sizes
    only), `figures=true` (every two seconds: totals of messages and bytes, processes, archive), `apps=true`
    (as often: apps and their sends; needs the scope `apps` too).

    Nothing is kept for a reader that was away; an event `stream_loss` reports what it missed.
    """
    query = request.query_params
    shards = _shards(query.get("shards", ""))
    wanted = {name for name in _PARTS if query.get(name) == "true"}
    if not shards and not wanted - {"payload"}:
        raise ProblemError(400, "bad_request", "name shards, health, peers, figures or apps")
    if "apps" in wanted and Scope.APPS not in scopes_of(request):
        raise ProblemError(403, "unauthorised", "this token does not allow the scope apps")
    kernel = gateway_of(request).links.kernel
    sources = []
    if shards or wanted & {"health", "peers"}:
        sources.append(_feed(kernel, shards, wanted))
    if wanted & {"figures", "apps"}:
        sources.append(_beats(request.app.state.pulse, wanted))
    return EventStreamResponse(merge(*sources))


def _shards(text: str) -> tuple[int, ...]:
    parts = [part for part in text.split(",") if part]
    if not all(part.isascii() and part.isdigit() and len(part) <= 5 for part in parts) or len(parts) > 1024:
        raise ProblemError(400, "bad_request", "shards: numbers separated by commas are needed")
    return tuple(dict.fromkeys(map(int, parts)))


async def _feed(
    kernel: KernelClient, shards: tuple[int, ...], wanted: set[str]
) -> AsyncGenerator[bytes, None]:
    health, peers = "health" in wanted, "peers" in wanted
    # No lease: observing a node must not change which shards it joins.
    feed = kernel.events(shards=shards, health=health, peers=peers, lease=False, max_bytes=_FEED_BYTES)
    async with feed:
        async for chunk in _state(kernel, health=health, peers=peers):
            yield chunk
        async for event in feed:
            yield _event(*_plain(event, payload="payload" in wanted))
            if isinstance(event, KernelFound):
                # Its events report changes only, not the state at reconnection.
                with contextlib.suppress(LogosError):
                    async for chunk in _state(kernel, health=health, peers=peers):
                        yield chunk


async def _state(kernel: KernelClient, *, health: bool, peers: bool) -> AsyncGenerator[bytes, None]:
    if health:
        yield _event("health", (await kernel.health()).to_body())
    if peers:
        yield _event("peers", {"peers": [one.to_body() for one in await kernel.peers()]})


async def _beats(pulse: Pulse, wanted: set[str]) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(pulse.beats()) as beats:
        async for beat in beats:
            if "figures" in wanted:
                yield _event("figures", beat.figures)
                if "health" in wanted and beat.health is not None:
                    yield _event("health", beat.health)
                if "peers" in wanted and beat.peers is not None:
                    yield _event("peers", {"peers": beat.peers})
            if "apps" in wanted:
                yield _event("apps", beat.apps or {"apps": None})


def _event(kind: str, value: object) -> bytes:
    return sse_event(encode_json(value).decode(), kind=kind).encode()


def _plain(event: KernelEvent, *, payload: bool) -> tuple[str, dict[str, Any]]:
    match event:
        case KernelMessage():
            shown: dict[str, Any] = {
                "stream": event.stream,
                "seq": event.seq,
                "timeNs": event.time_ns,
                "contentTopic": event.content_topic,
                "messageHash": format_hash(event.message_hash),
                "timestamp": event.timestamp,
                "ephemeral": event.ephemeral,
                "source": source_name(event.source),
                "size": len(event.payload),
            }
            if payload:
                shown["payload"] = to_base64(event.payload)
            return "message", shown
        case HealthEvent():
            return "health", event.health.to_body()
        case PeerEvent():
            return "peer", {"change": event.change, "peer": event.peer.to_body()}
        case PeersSnapshot():
            return "peers", {"peers": [one.to_body() for one in event.peers]}
    fields = {name: one.hex() if isinstance(one, bytes) else one for name, one in event._asdict().items()}
    return event.kind, fields
