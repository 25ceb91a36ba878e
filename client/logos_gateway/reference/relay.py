"""`/relay/v1`: subscriptions, polling and publishing, by pubsub topic and by content topic (`auto`)."""

from __future__ import annotations

import contextlib
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from ipc_schema.errors import ErrorCode
from ipc_schema.message import WakuMessage
from ipc_schema.topics import PubsubTopic, TopicError, autoshard
from logos_client.exceptions import DeadlineError, LogosError, NoPeersError
from logos_client.kernel import KernelClient
from logos_gateway.bodies import TextRefusal, json_response, reference_body
from logos_gateway.json_values import BadBody, decode_json, read_message, write_message
from logos_gateway.reference.services import message_arguments
from logos_gateway.state import Gateway, gateway_of, kernel_for

router = APIRouter(prefix="/relay/v1", tags=["relay"])

_PUBLISH_SECONDS: Final = 5.0


async def _kernel(request: Request) -> tuple[Gateway, KernelClient]:
    kernel, gateway = kernel_for(request, "/relay"), gateway_of(request)
    if not await gateway.links.mounts("Relay"):
        raise TextRefusal(404, "/relay endpoints are not available. Please check your configuration: --relay")
    return gateway, kernel


async def topics_of(request: Request) -> list[str]:
    """Return the body of a subscription, an array of texts. Raises `TextRefusal`."""
    body = await reference_body(request)
    try:
        topics = decode_json(body)
        if not isinstance(topics, list) or not all(isinstance(topic, str) for topic in topics):
            raise BadBody("expected an array of texts")
    except BadBody as error:
        raise TextRefusal(400, f"Invalid content body, could not decode: {error}") from None
    return topics


# --- by pubsub topic --------------------------------------------------------------------------------------


def _parsed(topics: list[str]) -> list[PubsubTopic]:
    """Return the pubsub topics; one bad topic refuses all. Raises `TextRefusal`."""
    parsed: list[PubsubTopic] = []
    bad: list[str] = []
    for topic in topics:
        try:
            parsed.append(PubsubTopic.parse(topic))
        except TopicError:
            bad.append(topic)
    if bad:
        shown = ", ".join(f'"{topic}"' for topic in bad)
        raise TextRefusal(400, f"Invalid pubsub topic(s): @[{shown}]")
    return parsed


@router.post("/subscriptions", summary="Subscribe to pubsub topics")
async def subscribe(request: Request) -> Response:
    """Body: an array of pubsub topics. 200 `OK`."""
    gateway, kernel = await _kernel(request)
    for topic in _parsed(await topics_of(request)):
        if topic.cluster != kernel.network.cluster:
            raise TextRefusal(500, f"Subscribe failed:the node is on cluster {kernel.network.cluster}")
        try:
            subscribed = await gateway.topics.subscribe(kernel, topic)
        except LogosError as error:
            raise TextRefusal(500, f"Subscribe failed:{error.message}") from None
        if not subscribed:
            raise TextRefusal(500, "Subscribe failed:too many topics")
    return PlainTextResponse("OK")


@router.delete("/subscriptions", summary="Unsubscribe from pubsub topics")
async def unsubscribe(request: Request) -> Response:
    """Body: an array of pubsub topics. 200 `OK`."""
    gateway, kernel = await _kernel(request)
    for topic in _parsed(await topics_of(request)):
        await gateway.topics.unsubscribe(kernel, topic)
    return PlainTextResponse("OK")


@router.get("/messages/{pubsubTopic:path}", summary="Take the cached messages of a pubsub topic")
async def messages(request: Request) -> Response:
    """Return the messages since the last call, oldest first; 404 if the topic is not subscribed."""
    gateway, kernel = await _kernel(request)
    taken = await gateway.topics.take(kernel, request.path_params["pubsubTopic"])
    return Response(None, 404) if taken is None else json_response([write_message(one) for one in taken])


@router.post("/messages/{pubsubTopic:path}", summary="Publish on a pubsub topic")
async def publish(request: Request) -> Response:
    """Body: a RelayWakuMessage. 200 `OK`, even without peers, as in the reference."""
    gateway, kernel = await _kernel(request)
    topic = request.path_params["pubsubTopic"]
    if topic not in gateway.topics:
        raise TextRefusal(400, f"Failed to publish: Node not subscribed to topic: {topic}")
    message = await _message(request)
    with contextlib.suppress(NoPeersError):  # the reference answers 200 here; the auto route does not
        await _publish(kernel, message, topic)
    return PlainTextResponse("OK")


# --- by content topic -------------------------------------------------------------------------------------


def _shard_of(kernel: KernelClient, content_topic: str, failed: str) -> int:
    try:
        return autoshard(content_topic, kernel.network.shard_count)
    except TopicError as error:
        raise TextRefusal(500 if failed.startswith("Sub") else 400, f"{failed}{error}") from None


@router.post("/auto/subscriptions", summary="Subscribe to content topics")
async def auto_subscribe(request: Request) -> Response:
    """Body: an array of content topics. 200 `OK`."""
    gateway, kernel = await _kernel(request)
    for topic in await topics_of(request):
        await _watch(gateway, kernel, _shard_of(kernel, topic, "Subscribe failed:"))
        if not gateway.watch.auto.subscribe(topic):
            raise TextRefusal(500, "Subscribe failed:too many topics")
    return PlainTextResponse("OK")


@router.delete("/auto/subscriptions", summary="Unsubscribe from content topics")
async def auto_unsubscribe(request: Request) -> Response:
    """Body: an array of content topics. 200 `OK`."""
    gateway, kernel = await _kernel(request)
    for topic in await topics_of(request):
        gateway.watch.auto.unsubscribe(topic)
        try:
            await _unwatch_unused(gateway, kernel, autoshard(topic, kernel.network.shard_count))
        except TopicError as error:
            raise TextRefusal(500, f"Unsubscribe failed:{error}") from None
    return PlainTextResponse("OK")


@router.get("/auto/messages/{contentTopic:path}", summary="Take the cached messages of a content topic")
async def auto_messages(request: Request) -> Response:
    """Return the messages since the last call, oldest first; 404 with the topic if it is not subscribed."""
    gateway, _ = await _kernel(request)
    topic = request.path_params["contentTopic"]
    taken = gateway.watch.auto.take(topic)
    if taken is None:
        return PlainTextResponse(topic, 404)
    return json_response([write_message(one) for one in taken])


@router.post("/auto/messages", summary="Publish on the shard of the message's content topic")
async def auto_publish(request: Request) -> Response:
    """Body: a RelayWakuMessage. 200 `OK`; 400 with the reason, such as no peers."""
    _, kernel = await _kernel(request)
    message = await _message(request)
    if not kernel.network.shard_count:
        raise TextRefusal(400, "Failed to publish. Autosharding is disabled")
    _shard_of(kernel, message.content_topic, "Failed to publish. Autosharding error: ")
    try:
        await _publish(kernel, message, None)
    except NoPeersError as error:
        raise TextRefusal(400, f"Failed to publish: {error.message}") from None
    return PlainTextResponse("OK")


# --- both -------------------------------------------------------------------------------------------------


async def _message(request: Request) -> WakuMessage:
    body = await reference_body(request)
    try:
        return read_message(decode_json(body))
    except BadBody as error:
        raise TextRefusal(400, f"Invalid content body, could not decode: {error}") from None


async def _publish(kernel: KernelClient, message: WakuMessage, topic: str | None) -> None:
    """Publish. Raises `NoPeersError`, and `TextRefusal` for all other failures."""
    try:
        await kernel.publish(**message_arguments(message), pubsub_topic=topic, timeout=_PUBLISH_SECONDS)
    except NoPeersError:
        raise
    except DeadlineError:
        raise TextRefusal(500, "Failed to publish: timedout") from None
    except LogosError as error:
        status = 400 if error.code in _REFUSED else 500
        raise TextRefusal(status, f"Failed to publish: {error.message}") from None


_REFUSED: Final = frozenset({ErrorCode.BAD_REQUEST, ErrorCode.TOO_LARGE, ErrorCode.RLN_REQUIRED})


async def _watch(gateway: Gateway, kernel: KernelClient, shard: int) -> None:
    try:
        await gateway.watch.watch(kernel, [shard])
    except LogosError as error:
        raise TextRefusal(500, f"Subscribe failed:{error.message}") from None


async def _unwatch_unused(gateway: Gateway, kernel: KernelClient, shard: int) -> None:
    """Release a shard once no topic of any cache is on it."""
    count = kernel.network.shard_count
    used = {autoshard(topic, count) for topic in gateway.watch.auto.topics if count}
    if shard not in used | gateway.watch.filter_shards:
        await gateway.watch.unwatch(shard)
