"""relay.publish, relay.peers, relay.mesh."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.kernel.relay import (
    RELAY_MESH,
    RELAY_PEERS,
    RELAY_PUBLISH,
    RelayPeersReply,
    RelayPeersRequest,
    RelayPublishReply,
    RelayPublishRequest,
)
from ipc_schema.server import Answer, Call, Route
from ipc_schema.topics import PubsubTopic, TopicError
from kernel_proc.publishing import Publishing, PublishOutcome
from kernel_proc.relay.service import RelayService


def relay_routes(publishing: Publishing, relay: RelayService | None) -> Mapping[str, Route]:
    """Return the methods. `relay` is None if relay is off."""

    def publish(call: Call) -> Answer | Awaitable[Answer]:
        request = call.read(RelayPublishRequest)
        message = request.message(call.blobs)
        done = publishing.publish(
            message, pubsub_topic=request.pubsub_topic, shard=request.shard, force=request.force
        )
        return _published(done) if isinstance(done, PublishOutcome) else _published_later(done)

    def by_topic(call: Call, look: Callable[[RelayService, str], Sequence[str]]) -> Answer:
        wanted = call.read(RelayPeersRequest).pubsub_topic
        if wanted is not None:
            try:
                PubsubTopic.parse(wanted)
            except TopicError as error:
                raise IpcError(ErrorCode.BAD_REQUEST, str(error)) from error
        subscribed = relay.subscriptions() if relay is not None else ()
        asked = subscribed if wanted is None else [wanted]
        found = {topic: tuple(look(relay, topic)) if relay is not None else () for topic in asked}
        return RelayPeersReply(topics=found).to_body(), ()

    def peers(call: Call) -> Answer:
        return by_topic(call, lambda relay, topic: relay.topic_peers(topic))

    def mesh(call: Call) -> Answer:
        return by_topic(call, lambda relay, topic: relay.mesh_peers(topic))

    # Ordered: messages of one consumer are sent in the order of its requests.
    return {
        RELAY_PUBLISH: Route(publish, ordered=True, may_wait=True),
        RELAY_PEERS: Route(peers),
        RELAY_MESH: Route(mesh),
    }


def _published(done: PublishOutcome) -> Answer:
    return RelayPublishReply(**done._asdict()).to_body(), ()


async def _published_later(publishing: Awaitable[PublishOutcome]) -> Answer:
    return _published(await publishing)
