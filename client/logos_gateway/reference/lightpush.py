"""`/lightpush/v3` and the older `/lightpush/v1`: have another node publish a message."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from ipc_schema.errors import ErrorCode
from ipc_schema.message import WakuMessage
from logos_client.exceptions import DeadlineError, LogosError
from logos_client.kernel import KernelClient
from logos_gateway.bodies import TextRefusal, json_response, reference_body
from logos_gateway.json_values import BadBody, decode_json, read_message
from logos_gateway.reference.services import SERVICE_SECONDS, service_answer
from logos_gateway.state import gateway_of, kernel_for

__all__ = ["router"]

router = APIRouter(prefix="/lightpush", tags=["lightpush"])


class _BadPush(Exception):
    """The body cannot be used; the text is the reference's."""


async def _read(request: Request) -> tuple[str | None, WakuMessage]:
    body = await reference_body(request)
    try:
        value = decode_json(body)
    except BadBody as error:
        raise _BadPush(f"Invalid push request! {error}") from None
    if not isinstance(value, dict) or "message" not in value:
        raise _BadPush("Invalid push request! Field `message` is missing")
    topic = value.get("pubsubTopic")
    if topic is not None and not isinstance(topic, str):
        raise _BadPush("Invalid push request! pubsubTopic: expected text")
    try:
        return topic, read_message(value["message"])
    except BadBody as error:
        raise _BadPush(f"Invalid message! {error}") from None


async def _push(kernel: KernelClient, topic: str | None, message: WakuMessage) -> int:
    """How many relay peers it went to. Raises `LogosError`."""
    reply = await kernel.lightpush_publish(
        message.content_topic,
        message.payload,
        pubsub_topic=topic,
        timestamp=message.timestamp or None,
        meta=message.meta,
        version=message.version,
        ephemeral=message.ephemeral,
        proof=message.proof,
        timeout=SERVICE_SECONDS,
    )
    return reply.relay_peers or 0


async def _push_or_publish(request: Request, topic: str | None, message: WakuMessage) -> int:
    """As the reference does, ask our own service where no other node's is known. Raises `LogosError`."""
    links = gateway_of(request).links
    kernel = links.kernel
    try:
        return await _push(kernel, topic, message)
    except LogosError as error:
        no_service = error.code is ErrorCode.NO_PEERS and not error.detail.get("attempts")
        if not no_service or not await links.mounts("Lightpush"):
            raise
    published = await kernel.publish(
        message.content_topic,
        message.payload,
        pubsub_topic=topic,
        timestamp=message.timestamp or None,
        meta=message.meta,
        version=message.version,
        ephemeral=message.ephemeral,
        proof=message.proof,
        timeout=SERVICE_SECONDS,
    )
    return published.peers


@router.post("/v3/message", summary="Publish through a lightpush service")
async def push(request: Request) -> Response:
    """Body: `{pubsubTopic?, message}`. 200 `{relayPeerCount}`; errors are `{statusDesc}`."""
    kernel_for(request, "/lightpush")
    try:
        topic, message = await _read(request)
        count = await _push_or_publish(request, topic, message)
    except _BadPush as error:
        return json_response({"statusDesc": str(error)}, 400)
    except DeadlineError:
        return json_response({"statusDesc": "Push request timed out"}, 503)
    except LogosError as error:
        status, text = _failure(error)
        return json_response({"statusDesc": text}, status)
    return json_response({"relayPeerCount": count})


def _failure(error: LogosError) -> tuple[int, str]:
    """The lightpush status as HTTP status: 420 for what the relay would not take, 505 without peers."""
    if error.code is ErrorCode.TOO_LARGE:
        return 420, error.message
    if (
        error.code is ErrorCode.NO_PEERS
        and "message_hash" in error.detail
        and not error.detail.get("attempts")
    ):
        return 505, "not_published_to_any_peer"
    return service_answer(error)


@router.post("/v1/message", summary="Publish through a lightpush service (older form)")
async def push_v1(request: Request) -> Response:
    """Body: `{pubsubTopic?, message}`. 200 `OK`, 400, 429, 503 with a text."""
    kernel_for(request, "/lightpush")
    try:
        topic, message = await _read(request)
        await _push_or_publish(request, topic, message)
    except _BadPush as error:
        raise TextRefusal(400, str(error)) from None
    except DeadlineError:
        raise TextRefusal(503, "Failed to request a message push: Push request timed out") from None
    except LogosError as error:
        status, text = _failure(error)
        if status == 429:
            raise TextRefusal(429, "Request rate limmit reached") from None  # the reference's spelling
        raise TextRefusal(503, f"Failed to request a message push: {text}") from None
    return PlainTextResponse("OK")
