"""`/lightpush/v3` and the older `/lightpush/v1`: publish a message through another node."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from ipc_schema.errors import ErrorCode
from ipc_schema.message import WakuMessage
from logos_client.exceptions import DeadlineError, LogosError, NoPeersError
from logos_client.kernel import KernelClient
from logos_gateway.bodies import TextRefusal, json_response, reference_body
from logos_gateway.json_values import BadBody, decode_json, read_message
from logos_gateway.reference.services import SERVICE_SECONDS, service_answer
from logos_gateway.state import gateway_of, kernel_for

router = APIRouter(prefix="/lightpush", tags=["lightpush"])


class _BadPush(Exception):
    """A bad body; the text is the reference's."""


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
    """Publish. Return the number of relay peers. Raises `LogosError`."""
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


class _PushFailed(Exception):
    """Why a message was not pushed, as lightpush's status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


async def _push_or_publish(request: Request, topic: str | None, message: WakuMessage) -> int:
    """Publish, through our own service if no other is known, as the reference does. Raises `_PushFailed`."""
    links = gateway_of(request).links
    kernel = links.kernel
    try:
        return await _push(kernel, topic, message)
    except DeadlineError:
        raise _PushFailed(503, "Push request timed out") from None
    except LogosError as error:
        no_service = error.code is ErrorCode.NO_PEERS and not error.detail.get("attempts")
        if not no_service or not await links.mounts("Lightpush"):
            raise _push_failed(error) from None
    try:
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
    except DeadlineError:
        raise _PushFailed(503, "Push request timed out") from None
    except NoPeersError:
        raise _PushFailed(505, "not_published_to_any_peer") from None
    except LogosError as error:
        raise _push_failed(error) from None
    return published.peers


def _push_failed(error: LogosError) -> _PushFailed:
    """Refuse with lightpush's 420 what the relay would not accept."""
    if error.code is ErrorCode.TOO_LARGE:
        return _PushFailed(420, error.message)
    return _PushFailed(*service_answer(error))


@router.post("/v3/message", summary="Publish through a lightpush service")
async def push(request: Request) -> Response:
    """Body: `{pubsubTopic?, message}`. 200 `{relayPeerCount}`; errors are `{statusDesc}`."""
    kernel_for(request, "/lightpush")
    try:
        topic, message = await _read(request)
        count = await _push_or_publish(request, topic, message)
    except _BadPush as error:
        return json_response({"statusDesc": str(error)}, 400)
    except _PushFailed as error:
        return json_response({"statusDesc": error.text}, error.status)
    return json_response({"relayPeerCount": count})


@router.post("/v1/message", summary="Publish through a lightpush service (older form)")
async def push_v1(request: Request) -> Response:
    """Body: `{pubsubTopic?, message}`. 200 `OK`, 400, 429, 503 with a text."""
    kernel_for(request, "/lightpush")
    try:
        topic, message = await _read(request)
        await _push_or_publish(request, topic, message)
    except _BadPush as error:
        raise TextRefusal(400, str(error)) from None
    except _PushFailed as error:
        if error.status == 429:
            raise TextRefusal(429, "Request rate limmit reached") from None  # the reference's spelling
        raise TextRefusal(503, f"Failed to request a message push: {error.text}") from None
    return PlainTextResponse("OK")
