"""`/filter/v2`: messages pushed by a filter service, for clients that poll."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from ipc_schema.topics import TopicError, place
from logos_client.exceptions import DeadlineError, LogosError
from logos_client.kernel import KernelClient
from logos_gateway.bodies import TextRefusal, json_response, reference_body
from logos_gateway.json_values import BadBody, decode_json, write_message
from logos_gateway.reference.services import SERVICE_SECONDS, service_answer
from logos_gateway.state import gateway_of, kernel_for

router = APIRouter(prefix="/filter/v2", tags=["filter"])

_MAX_TOPICS: Final = 100
"""Content topics in one request to a service."""
_SUBSCRIBE_LATE: Final = "Subscription request timed out"
_UNSUBSCRIBE_LATE: Final = "Failed to unsubscribe from contentFilters due to timeout!"
_UNSUBSCRIBE_ALL_LATE: Final = "Failed to unsubscribe from all contentFilters due to timeout!"


def _answer(request_id: str, status: int, description: str) -> Response:
    return json_response({"requestId": request_id, "statusDesc": description}, status)


class _FilterRefusal(TextRefusal):
    """A request that is refused in the form of this API's answers."""

    def __init__(self, status: int, text: str, request_id: str = "unknown") -> None:
        super().__init__(status, text)
        self._request_id = request_id

    def response(self) -> Response:
        return _answer(self._request_id, self.status, self.text)


def _undecoded(reason: str) -> _FilterRefusal:
    return _FilterRefusal(400, f"BAD_REQUEST: Failed to decode request: {reason}")


@contextlib.contextmanager
def _asking_services(request_id: str, late: str) -> Iterator[None]:
    """Refuse the request if the services do; `late`: the text if they do not answer."""
    try:
        yield
    except DeadlineError:
        raise _FilterRefusal(503, late, request_id) from None
    except LogosError as error:
        raise _FilterRefusal(*service_answer(error), request_id) from None


async def _read(request: Request, *, topics: bool) -> dict[str, Any]:
    body = await reference_body(request, text_plain=False)
    try:
        value = decode_json(body)
    except BadBody as error:
        raise _undecoded(str(error)) from None
    if not isinstance(value, dict) or not isinstance(value.get("requestId"), str):
        raise _undecoded("Field `requestId` is missing")
    if topics:
        filters = value.get("contentFilters")
        if not isinstance(filters, list) or not all(isinstance(topic, str) for topic in filters):
            raise _undecoded("Field `contentFilters` is missing")
        if not isinstance(value.get("pubsubTopic", ""), str | None):
            raise _undecoded("Field `pubsubTopic` is not text")
    return value


def _by_shard(kernel: KernelClient, asked: dict[str, Any]) -> dict[int, list[str]]:
    """Return the content topics of a request by shard. Raises `_FilterRefusal`."""
    network, pubsub_topic = kernel.network, asked.get("pubsubTopic")
    found: dict[int, list[str]] = {}
    for topic in dict.fromkeys(asked["contentFilters"]):
        try:
            shard = place(
                [topic], cluster=network.cluster, shard_count=network.shard_count, pubsub_topic=pubsub_topic
            )
        except TopicError as error:
            raise _FilterRefusal(400, f"BAD_REQUEST: {error}", asked["requestId"]) from None
        found.setdefault(shard, []).append(topic)
    return found


@router.post("/subscriptions", summary="Subscribe at a filter service")
@router.put("/subscriptions", include_in_schema=False)
async def subscribe(request: Request) -> Response:
    """Body: `{requestId, contentFilters, pubsubTopic?}`."""
    kernel = kernel_for(request, "/filter")
    gateway = gateway_of(request)
    asked = await _read(request, topics=True)
    request_id, topics = asked["requestId"], asked["contentFilters"]
    if not topics:
        return _answer(request_id, 400, "BAD_REQUEST: pubsubTopic and contentTopics must be specified")
    shards = _by_shard(kernel, asked)
    status, description = 200, "OK"
    late = False
    for shard, wanted in shards.items():
        if len(wanted) > _MAX_TOPICS:  # our kernel would ask in parts: the reference's service refuses
            status, description = 400, f"BAD_REQUEST: exceeds maximum content topics: {_MAX_TOPICS}"
            continue
        try:
            await gateway.watch.watch(kernel, [shard])
            await kernel.filter_subscribe(wanted, shard=shard, timeout=SERVICE_SECONDS)
        except DeadlineError:
            status, description, late = 503, _SUBSCRIBE_LATE, True
        except LogosError as error:
            status, description = service_answer(error)
        gateway.watch.filter_shards.add(shard)
    if not late:
        # As in the reference, the topics count as subscribed even if the service refused.
        for topic in topics:
            gateway.watch.filter.subscribe(topic)
    return _answer(request_id, status, description)


@router.delete("/subscriptions", summary="Unsubscribe at the filter services")
async def unsubscribe(request: Request) -> Response:
    """Body: `{requestId, contentFilters, pubsubTopic?}`."""
    kernel = kernel_for(request, "/filter")
    gateway = gateway_of(request)
    asked = await _read(request, topics=True)
    request_id, topics = asked["requestId"], asked["contentFilters"]
    shards = _by_shard(kernel, asked)
    for topic in topics:
        gateway.watch.filter.unsubscribe(topic)
    with _asking_services(request_id, _UNSUBSCRIBE_LATE):
        for shard, unwanted in shards.items():
            await kernel.filter_unsubscribe(unwanted, shard=shard, timeout=SERVICE_SECONDS)
    return _answer(request_id, 200, "OK")


@router.delete("/subscriptions/all", summary="Give up all filter subscriptions")
async def unsubscribe_all(request: Request) -> Response:
    """Body: `{requestId}`. Empties the cache."""
    kernel = kernel_for(request, "/filter")
    gateway = gateway_of(request)
    asked = await _read(request, topics=False)
    gateway.watch.filter.clear()
    gateway.watch.filter_shards.clear()
    with _asking_services(asked["requestId"], _UNSUBSCRIBE_ALL_LATE):
        await kernel.filter_unsubscribe(timeout=SERVICE_SECONDS)
    return _answer(asked["requestId"], 200, "OK")


@router.get("/subscriptions/{requestId}", summary="Ask the filter services whether they know us")
async def ping(request: Request) -> Response:
    """Ping the services that hold our subscriptions."""
    kernel = kernel_for(request, "/filter")
    request_id = request.path_params["requestId"]
    with _asking_services(request_id, "Ping timed out"):
        found = await kernel.filter_ping(timeout=SERVICE_SECONDS)
    if any(peer.status == 200 for peer in found.peers):
        return _answer(request_id, 200, "OK")
    if any(peer.status is None for peer in found.peers):
        return _answer(request_id, 503, "Ping timed out")
    return _answer(request_id, 404, "NOT_FOUND: peer has no subscriptions")


@router.get("/messages/{contentTopic:path}", summary="Take the cached messages of a content topic")
async def messages(request: Request) -> Response:
    """Return the messages pushed since the last call; 400 if the topic is not subscribed."""
    kernel_for(request, "/filter")
    topic = request.path_params["contentTopic"]
    taken = gateway_of(request).watch.filter.take(topic)
    if taken is None:
        return PlainTextResponse(f"Not subscribed to topic: {topic}", 400)
    return json_response([write_message(one, proof=False) for one in taken])
