"""hello, leases and replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import MAX_BODY
from ipc_schema.hello import HELLO, HelloRequest, NetworkInfo
from ipc_schema.kernel.methods import (
    LEASE_ACQUIRE,
    LEASE_RELEASE,
    LEASE_RENEW_MS,
    STREAM_REPLAY,
    KernelHello,
    KernelLimits,
    LeaseAcquireReply,
    LeaseAcquireRequest,
    LeaseReleaseReply,
    LeaseReleaseRequest,
    StreamReplayRequest,
    replay_blobs,
)
from ipc_schema.kernel.relay import FEATURE_PUBLISH_MANY
from ipc_schema.server import Answer, Call, Route
from kernel_proc.ipc.consumers import Consumer, Consumers
from kernel_proc.ipc.events import EventPublisher
from kernel_proc.ipc.methods.fitting import fitting_states
from kernel_proc.shards import Shards
from logos_sockets import BLOB_SLACK


def stream_routes(
    *,
    shards: Shards,
    publisher: EventPublisher,
    consumers: Consumers,
    network: NetworkInfo,
    server: str,
    in_flight: int,
    replay_bytes: int,
    events_endpoint: Callable[[], str],
) -> Mapping[str, Route]:
    """Return the methods hello, lease.acquire, lease.release and stream.replay."""
    ttl_ms = int(shards.lease_ttl * 1000)
    limits = KernelLimits(
        in_flight=in_flight,
        body_bytes=MAX_BODY,
        blob_bytes=network.max_message_size + BLOB_SLACK,
        replay_bytes=replay_bytes,
        lease_ttl_ms=ttl_ms,
        lease_renew_ms=min(LEASE_RENEW_MS, ttl_ms // 6),
    )

    def hello(call: Call) -> Answer:
        request = call.read(HelloRequest)
        version = request.check()
        consumer = consumers.hello(call.caller.identity, request.name, request.kind)
        reply = KernelHello(
            protocol=version,
            instance=publisher.instance,
            server=server,
            limits=limits,
            features=(FEATURE_PUBLISH_MANY,),
            network=network,
            events=events_endpoint(),
            consumer=consumer.name,
            streams=fitting_states(shards.states()),
        )
        return reply.to_body(), ()

    def acquire(call: Call) -> Answer:
        request = call.read(LeaseAcquireRequest)
        leases = shards.acquire(call.client_name, request.shards)
        return LeaseAcquireReply(leases=fitting_states(leases), ttl_ms=ttl_ms).to_body(), ()

    def release(call: Call) -> Answer:
        request = call.read(LeaseReleaseRequest)
        released = shards.release(call.client_name, request.shards)
        return LeaseReleaseReply(released=tuple(released)).to_body(), ()

    async def replay(call: Call) -> Answer:
        request = call.read(StreamReplayRequest)
        consumer = call.client
        assert isinstance(consumer, Consumer)
        if consumer.replaying:
            raise IpcError(ErrorCode.BUSY, "a replay of this consumer is in progress", retry_after_ms=10)
        consumer.replaying = True
        try:
            # Yield to others first: a consumer that replays is behind and will keep asking.
            await trio.lowlevel.checkpoint()
            batch = publisher.replay(request.stream, request.epoch, request.after)
        finally:
            consumer.replaying = False
        reply, blobs = replay_blobs(batch)
        return reply.to_body(), blobs

    return {
        HELLO: Route(hello, needs_hello=False),
        LEASE_ACQUIRE: Route(acquire),
        LEASE_RELEASE: Route(release),
        STREAM_REPLAY: Route(replay),
    }
