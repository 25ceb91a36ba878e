"""filter.subscribe, filter.unsubscribe, filter.ping."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from ipc_schema.config.addresses import peer_id_in
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.kernel.filter import (
    FILTER_PING,
    FILTER_SUBSCRIBE,
    FILTER_UNSUBSCRIBE,
    FilterPeer,
    FilterPingReply,
    FilterPingRequest,
    FilterSubscribeReply,
    FilterSubscribeRequest,
    FilterUnsubscribeReply,
    FilterUnsubscribeRequest,
    Held,
)
from ipc_schema.server import Answer, Call, Route
from ipc_schema.topics import TopicError, place
from kernel_proc.protocols.filter.client import FilterClient, LeaseEnded
from kernel_proc.shards import Shards

MAX_SUBSCRIPTIONS: Final = 100_000
"""Of all consumers together: the number and length of content topics is otherwise unlimited."""


def filter_routes(
    client: FilterClient, shards: Shards, cluster: int, shard_count: int
) -> Mapping[str, Route]:
    """Return the methods for subscriptions at filter service nodes, on behalf of the calling consumer."""
    interests = client.interests
    asking = 0
    """Subscriptions being requested from peers, not yet registered."""

    def shard_of(
        call: Call, request: FilterSubscribeRequest | FilterUnsubscribeRequest, contents: Collection[str]
    ) -> int:
        """Return the single shard of a request. Raise IpcError."""
        try:
            return place(
                contents,
                cluster=cluster,
                shard_count=shard_count,
                pubsub_topic=request.pubsub_topic,
                shard=request.shard,
            )
        except TopicError as error:
            raise IpcError(ErrorCode.BAD_REQUEST, f"{call.request.method}: {error}") from error

    def named(peer: str | None) -> str | None:
        """Return the id of the peer named in a request, without dialling: an unconnected peer holds
        nothing."""
        return peer_id_in(peer) or peer if peer is not None else None

    def held(consumer: str) -> Held:
        topics = {topic: interests.held_for(consumer, topic) for topic in interests.wanted_topics(consumer)}
        return {topic: _tuples(peers) for topic, peers in topics.items() if peers}

    def not_leased(topic: str) -> IpcError:
        text = f"{FILTER_SUBSCRIBE}: no lease on {topic}: what is subscribed to lasts as long as a lease"
        return IpcError(ErrorCode.BAD_REQUEST, text)

    async def subscribe(call: Call) -> Answer:
        request = call.read(FilterSubscribeRequest)
        contents = tuple(dict.fromkeys(request.content_topics))
        if not contents:
            raise IpcError(ErrorCode.BAD_REQUEST, f"{FILTER_SUBSCRIBE}: no content topic")
        shard = shard_of(call, request, contents)
        topic = shards.check(shard)
        consumer = call.client_name
        if not shards.is_leased(consumer, topic):
            raise not_leased(topic)
        new = interests.new_wishes(consumer, topic, contents)
        nonlocal asking
        if new and len(interests) + asking + new > MAX_SUBSCRIPTIONS:
            raise IpcError(
                ErrorCode.BUSY, f"{MAX_SUBSCRIPTIONS} subscriptions are held", retry_after_ms=10_000
            )
        asking += new
        try:
            peer_id = await client.subscribe(
                consumer,
                topic,
                shard,
                contents,
                peer=request.peer,
                exclude=request.exclude,
                deadline=call.answer_by,
            )
        except LeaseEnded:
            raise not_leased(topic) from None
        finally:
            asking -= new
        reply = FilterSubscribeReply(
            peer=peer_id,
            pubsub_topic=topic,
            held={topic: _tuples(interests.held_for(consumer, topic))},
        )
        return reply.to_body(), ()

    async def unsubscribe(call: Call) -> Answer:
        request = call.read(FilterUnsubscribeRequest)
        consumer, contents = call.client_name, request.content_topics
        topics: dict[str, Collection[str]]
        if request.pubsub_topic is None and request.shard is None and not contents:
            topics = {topic: interests.wishes(consumer, topic) for topic in interests.wanted_topics(consumer)}
        else:
            topic = shards.check(shard_of(call, request, contents))
            topics = {topic: contents or interests.wishes(consumer, topic)}
        errors = await client.unsubscribe(consumer, topics, peer=named(request.peer))
        return FilterUnsubscribeReply(held=held(consumer), errors=errors).to_body(), ()

    async def ping(call: Call) -> Answer:
        request = call.read(FilterPingRequest)
        consumer = call.client_name
        peer = named(request.peer)
        asked = interests.peers_for(consumer) if peer is None else [peer]
        found = await client.ping(asked)
        peers = tuple(
            FilterPeer(peer=one.peer_id, status=one.status, error=one.problem or None) for one in found
        )
        return FilterPingReply(peers=peers, held=held(consumer)).to_body(), ()

    return {
        FILTER_SUBSCRIBE: Route(subscribe),
        FILTER_UNSUBSCRIBE: Route(unsubscribe),
        FILTER_PING: Route(ping),
    }


def _tuples(peers: Mapping[str, Collection[str]]) -> dict[str, tuple[str, ...]]:
    return {peer_id: tuple(contents) for peer_id, contents in peers.items()}
