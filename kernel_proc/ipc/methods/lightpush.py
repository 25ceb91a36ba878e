"""lightpush.publish."""

from __future__ import annotations

from collections.abc import Mapping

from ipc_schema.kernel.lightpush import (
    LIGHTPUSH_PUBLISH,
    LightpushPublishReply,
    LightpushPublishRequest,
)
from ipc_schema.server import Answer, Call, Route
from kernel_proc.protocols.lightpush_client import LightpushClient
from kernel_proc.protocols.requests import AllFailed
from kernel_proc.publishing import Publishing


def lightpush_routes(publishing: Publishing, client: LightpushClient) -> Mapping[str, Route]:
    """Return the method. `publishing` places and checks messages as for relay."""

    async def publish(call: Call) -> Answer:
        request = call.read(LightpushPublishRequest)
        message = request.message(call.blobs)
        ready = publishing.prepare(message, pubsub_topic=request.pubsub_topic, shard=request.shard)
        try:
            done = await client.publish(
                ready.pubsub_topic,
                ready.data,
                peer=request.peer,
                shard=ready.shard,
                deadline=call.answer_by,
            )
        except AllFailed as error:
            # What the caller needs to retry with the very same message, or to look it up in a store.
            error.detail |= {
                "message_hash": ready.message_hash,
                "timestamp": ready.message.timestamp,
                "pubsub_topic": ready.pubsub_topic,
            }
            raise
        reply = LightpushPublishReply(
            message_hash=ready.message_hash,
            timestamp=ready.message.timestamp,
            pubsub_topic=ready.pubsub_topic,
            peer=done.peer_id,
            relay_peers=done.relay_peers,
        )
        return reply.to_body(), ()

    return {LIGHTPUSH_PUBLISH: Route(publish)}
