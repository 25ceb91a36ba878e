"""`/lightpush/v3` and the older `/lightpush/v1`: publish a message through another node."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from ipc_schema.errors import ErrorCode
from ipc_schema.message import WakuMessage
from logos_client.exceptions import DeadlineError, LogosError, NoPeersError
from logos_gateway.bodies import TextRefusal, json_response, reference_body
from logos_gateway.json_values import BadBody, decode_json, read_message
from logos_gateway.reference.services import SERVICE_SECONDS, attempts_of, message_arguments, service_answer
from logos_gateway.state import gateway_of, kernel_for

router = APIRouter(prefix="/lightpush", tags=["lightpush"])


class _PushFailed(Exception):
    """Why a message was not pushed, as lightpush's status and text. `bad_body`: it was not even
    tried."""

    def __init__(self, status: int, text: str, *, bad_body: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.bad_body = bad_body


def _bad_body(reason: str) -> _PushFailed:
    return _PushFailed(400, reason, bad_body=True)


async def _read(request: Request) -> tuple[str | None, WakuMessage]:
    body = await reference_body(request)
    try:
        value = decode_json(body)
    except BadBody as error:
        raise _bad_body(f"Invalid push request! {error}") from None
    if not isinstance(value, dict) or "message" not in value:
        raise _bad_body("Invalid push request! Field `message` is missing")
    topic = value.get("pubsubTopic")
    if topic is not None and not isinstance(topic, str):
        raise _bad_body("Invalid push request! pubsubTopic: expected text")
    try:
        return topic, read_message(value["message"])
    except BadBody as error:
        raise _bad_body(f"Invalid message! {error}") from None


async def _push(request: Request) -> int:
    """Publish a request's message, through our own service if no other is known, as the reference does.

    Return the number of relay peers. Raises `_PushFailed`.
    """
    topic, message = await _read(request)
    arguments: dict[str, Any] = {**message_arguments(message), "pubsub_topic": topic}
    links = gateway_of(request).links
    kernel = links.kernel
    try:
        return (await kernel.lightpush_publish(**arguments, timeout=SERVICE_SECONDS)).relay_peers or 0
    except DeadlineError:
        raise _PushFailed(503, "Push request timed out") from None
    except LogosError as error:
        no_service = error.code is ErrorCode.NO_PEERS and not error.detail.get("attempts")
        if not no_service or not await links.mounts("Lightpush"):
            raise _push_failed(error) from None
    try:
        return (await kernel.publish(**arguments, timeout=SERVICE_SECONDS)).peers
    except DeadlineError:
        raise _PushFailed(503, "Push request timed out") from None
    except NoPeersError:
        raise _PushFailed(505, "not_published_to_any_peer") from None
    except LogosError as error:
        raise _push_failed(error) from None


def _push_failed(error: LogosError) -> _PushFailed:
    """Refuse with lightpush's 420 what the relay would not accept."""
    ours = error.code in (ErrorCode.BAD_REQUEST, ErrorCode.TOO_LARGE) and not attempts_of(error)
    if error.code is ErrorCode.TOO_LARGE:
        return _PushFailed(420, error.message, bad_body=ours)
    return _PushFailed(*service_answer(error), bad_body=ours)


@router.post("/v3/message", summary="Publish through a lightpush service")
async def push(request: Request) -> Response:
    """Body: `{pubsubTopic?, message}`. 200 `{relayPeerCount}`; errors are `{statusDesc}`."""
    kernel_for(request, "/lightpush")
    try:
        return json_response({"relayPeerCount": await _push(request)})
    except _PushFailed as error:
        return json_response({"statusDesc": error.text}, error.status)


@router.post("/v1/message", summary="Publish through a lightpush service (older form)")
async def push_v1(request: Request) -> Response:
    """Body: `{pubsubTopic?, message}`. 200 `OK`, 400, 429, 503 with a text."""
    kernel_for(request, "/lightpush")
    try:
        await _push(request)
    except _PushFailed as error:
        if error.bad_body:
            raise TextRefusal(400, error.text) from None
        if error.status == 429:
            raise TextRefusal(429, "Request rate limmit reached") from None  # the reference's spelling
        raise TextRefusal(503, f"Failed to request a message push: {error.text}") from None
    return PlainTextResponse("OK")
