"""`/messaging/v1`: the Messaging API in the reference's form, for clients that poll one shared cache."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from ipc_schema.body import Body
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.mapi.methods import SendRequest, SubscribeRequest
from logos_client.exceptions import LogosError
from logos_gateway.bodies import TextRefusal, json_response, reference_body
from logos_gateway.json_values import BadBody, decode_json, from_base64
from logos_gateway.reference.messaging_cache import MessagingCache
from logos_gateway.reference.relay import topics_of
from logos_gateway.state import gateway_of

router = APIRouter(prefix="/messaging/v1", tags=["messaging"])


def _cache(request: Request) -> MessagingCache:
    cache = gateway_of(request).messaging
    if not cache.available:
        raise TextRefusal(404, "/messaging endpoints are not available.")
    return cache


def _check(body: Body) -> None:
    """Raise `BadBody` for what the Messaging API would not read, such as a content topic above 64 KiB."""
    try:
        body.from_body(body.to_body())
    except IpcError as error:
        raise BadBody(error.message) from None


async def _change(request: Request, what: str) -> Response:
    """Change the subscription of each topic of the body. Raises `TextRefusal` at the first that fails."""
    topics, cache = await topics_of(request), _cache(request)
    try:
        _check(SubscribeRequest(topics=tuple(topics)))
    except BadBody as error:
        raise TextRefusal(400, f"{what} failed: {error}") from None
    try:
        client = await cache.client()
        change = client.subscribe if what == "Subscribe" else client.unsubscribe
        for topic in topics:
            if errors := await change([topic]):
                raise TextRefusal(500, f"{what} failed: {errors[topic]}")
    except LogosError as error:
        raise TextRefusal(500, f"{what} failed: {error.message}") from None
    return PlainTextResponse("OK")


@router.post("/subscriptions", summary="Subscribe to content topics")
async def subscribe(request: Request) -> Response:
    """Body: an array of content topics. 500 at the first that fails; those before it stay."""
    return await _change(request, "Subscribe")


@router.delete("/subscriptions", summary="Unsubscribe from content topics")
async def unsubscribe(request: Request) -> Response:
    """Body: an array of content topics. 500 at the first that fails."""
    return await _change(request, "Unsubscribe")


@router.post("/messages", summary="Send a message")
async def send(request: Request) -> Response:
    """Body: `{payload, contentTopic, ephemeral?, meta?}`. 200 `{requestId}`."""
    cache = _cache(request)
    body = await reference_body(request)
    try:
        envelope = decode_json(body)
        if not isinstance(envelope, dict):
            raise BadBody("expected an object")
        if "payload" not in envelope or "contentTopic" not in envelope:
            raise BadBody("Fields `payload` and `contentTopic` are needed")
    except BadBody as error:
        raise TextRefusal(400, f"Invalid content body, could not decode: {error}") from None
    try:
        topic, ephemeral = envelope["contentTopic"], envelope.get("ephemeral")
        if not isinstance(topic, str) or not topic.strip():
            raise BadBody("contentTopic is blank")
        if ephemeral is not None and not isinstance(ephemeral, bool):
            raise BadBody("ephemeral: expected true or false")
        payload = from_base64(envelope["payload"], "payload")
        if not payload:
            raise BadBody("payload is empty")
        meta = b"" if envelope.get("meta") is None else from_base64(envelope["meta"], "meta")
        _check(SendRequest(request_id=bytes(16), content_topic=topic, meta=meta))
    except BadBody as error:
        raise TextRefusal(400, f"Invalid message: {error}") from None
    try:
        client = await cache.client()
        request_id = await client.send(topic, payload, ephemeral=bool(ephemeral), meta=meta)
    except LogosError as error:
        status = 400 if error.code is ErrorCode.TOO_LARGE else 500
        raise TextRefusal(status, f"Send failed: {error.message}") from None
    return json_response({"requestId": request_id.hex()})


@router.get("/events/send", summary="Take what became of sends")
async def send_events(request: Request) -> Response:
    """Return `[{requestId, events}]`, oldest id first; reading removes them."""
    taken = _cache(request).sends.take_all()
    return json_response([{"requestId": one, "events": events} for one, events in taken])


@router.get("/events/send/{requestId}", summary="Take what became of one send")
async def send_event(request: Request) -> Response:
    """Return `{requestId, events}`; 404 without events."""
    request_id = request.path_params["requestId"]
    events = _cache(request).sends.take(request_id)
    if events is None:
        raise TextRefusal(404, f"No send events for requestId: {request_id}")
    return json_response({"requestId": request_id, "events": events})


@router.get("/events/received", summary="Take the received messages")
async def received(request: Request) -> Response:
    """Return `[{messageHash, message, source}]`, oldest first; reading removes them."""
    return json_response(_cache(request).received.take())
