"""Lightpush, service side: the node publishes for peers that are not in the relay (v3 and legacy v2beta1).

Answers are nwaku's, with one exception: a message that the network has already is a success here. nwaku
answers 505, as it does when there are no peers at all, since its relay tells the two apart no more; its
clients then try a peer after another with what has long been sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from ipc_schema.hello import NetworkInfo
from ipc_schema.kernel.events import SOURCE_RELAY
from ipc_schema.message import (
    MessageDecodeError,
    WakuMessage,
    decode_message,
    encode_message,
    message_hash,
)
from ipc_schema.sizes import too_large_text
from ipc_schema.topics import ContentTopic, TopicError, autoshard_topic
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Host, PeerIdText
from kernel_proc.protocols.lightpush_codec import (
    LEGACY_PROTOCOL,
    NO_ID,
    PROTOCOL,
    LegacyResponse,
    PushResponse,
    PushStatus,
    decode_legacy_request,
    decode_request,
    encode_legacy_response,
    encode_response,
)
from kernel_proc.protocols.protobuf import ProtobufError
from kernel_proc.protocols.ratelimit import ServiceRateLimiter
from kernel_proc.protocols.requests import RequestService, ServiceLimits
from kernel_proc.relay.messages import RelayBadTopic, RelayMessageInvalid, RelayMessageTooLarge
from kernel_proc.relay.rpc_writer import fits_rpc
from kernel_proc.sender import MessageSender

__all__ = ["LightpushService"]

ROOM: Final = 1024 * 1024 + 64 * 1024
"""A request may exceed the network's message size by this much and still be told so: js-waku lets messages of
up to 1 MB through to here. What is longer costs its stream."""

TOO_MANY: Final = "Request rejected due to too many requests"
NO_PEERS: Final = "No peers for topic, skipping publish"


class TopicPeers(Protocol):
    """What the service asks the relay about."""

    def topic_peers(self, topic: str) -> Sequence[str]:
        """Connected peers that are subscribed to a topic."""
        ...

    def subscriptions(self) -> Sequence[str]:
        """The topics that this node is on itself."""
        ...


class _Outcome(NamedTuple):
    status: PushStatus
    description: str | None = None
    peers: int | None = None


class LightpushService:
    """Both versions on one host. `clock_ns` is the wall clock that stamps messages without a timestamp."""

    def __init__(
        self,
        host: Host,
        sender: MessageSender,
        relay: TopicPeers,
        network: NetworkInfo,
        registry: Registry,
        limiter: ServiceRateLimiter | None = None,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._sender = sender
        self._relay = relay
        self._network = network
        self._registry = registry
        self._clock_ns = clock_ns
        limits = ServiceLimits(max_request=network.max_message_size + ROOM, at_once=64)
        self.services = (
            RequestService(
                host,
                PROTOCOL,
                self.answer,
                service=PROTOCOL,
                rejected=encode_response(PushResponse(NO_ID, PushStatus.TOO_MANY_REQUESTS, TOO_MANY)),
                limits=limits,
                limiter=limiter,
            ),
            RequestService(
                host,
                LEGACY_PROTOCOL,
                self.answer_legacy,
                service=LEGACY_PROTOCOL,
                rejected=encode_legacy_response(LegacyResponse(NO_ID, False, "TOO_MANY_REQUESTS")),
                limits=limits,
                limiter=limiter,
            ),
        )
        """The protocols to mount. They share the limiter."""

    async def answer(self, peer_id: PeerIdText, body: bytes) -> bytes:
        """A request of v3."""
        try:
            request = decode_request(body)
            message = decode_message(request.message)
        except (ProtobufError, MessageDecodeError) as error:
            outcome = _Outcome(PushStatus.BAD_REQUEST, _decode_failure(error))
            request_id = NO_ID
        else:
            request_id = request.request_id
            outcome = await self._push(peer_id, request.pubsub_topic, message)
        self._count("lightpush_v3", outcome.status.name)
        return encode_response(PushResponse(request_id, outcome.status, outcome.description, outcome.peers))

    async def answer_legacy(self, peer_id: PeerIdText, body: bytes) -> bytes:
        """A request of the legacy version, in which texts stand for codes."""
        request_id, kind = "", "decode_rpc_failure"
        try:
            request = decode_legacy_request(body)
            message = None if request is None else decode_message(request.message)
        except (ProtobufError, MessageDecodeError) as error:
            response = LegacyResponse("", False, _decode_failure(error))
        else:
            if request is None or message is None:
                response = LegacyResponse("", False, "empty_request_body_failure")
                kind = "empty_request_body_failure"
            else:
                request_id = request.request_id
                outcome = await self._push(peer_id, request.pubsub_topic, message)
                kind = outcome.status.name
                if outcome.status is PushStatus.SUCCESS:
                    response = LegacyResponse(request_id, True, "OK")
                elif outcome.status is PushStatus.NO_PEERS_TO_RELAY:
                    response = LegacyResponse(request_id, False, "not_published_to_any_peer")
                else:
                    response = LegacyResponse(request_id, False, outcome.description)
        self._count("lightpush", kind)
        return encode_legacy_response(response)

    def _count(self, version: str, kind: str) -> None:
        self._registry.counter(f"{version}_messages", type=kind).add()
        if kind != PushStatus.SUCCESS.name:
            self._registry.counter(f"{version}_errors", type=kind).add()

    # --- one message ---

    def _has_somebody(self, topic: str, pusher: PeerIdText) -> bool:
        """Whether a message of this peer would get anywhere: to us, or to anybody but the peer it came from.

        A relay that has lost its mesh for a moment may push to us; handing its message back to it alone would
        not be publishing.
        """
        relay = self._relay
        return topic in relay.subscriptions() or any(peer != pusher for peer in relay.topic_peers(topic))

    async def _push(self, pusher: PeerIdText, topic: str | None, message: WakuMessage) -> _Outcome:
        if topic is None:
            placed = self._place(message.content_topic)
            if isinstance(placed, _Outcome):
                return placed
            topic = placed
        elif not topic.strip():
            return _Outcome(PushStatus.BAD_REQUEST, "topic must not be empty")
        # js-waku's relay refuses both, and would hold them against us.
        if not message.payload:
            return _Outcome(PushStatus.INVALID_MESSAGE, "payload is empty")
        if not message.content_topic:
            return _Outcome(PushStatus.INVALID_MESSAGE, "content topic is empty")
        if self._network.rln_required and not message.proof:
            return _Outcome(PushStatus.INVALID_MESSAGE, "this network takes only messages with an RLN proof")
        if not message.timestamp:
            message = message._replace(timestamp=self._clock_ns())
        # Encoded anew, as nwaku does: the same message pushed through two nodes then has one gossip id.
        data = encode_message(message)
        # As nwaku's relay, the limit is for the whole frame: what only just passed alone would reach nobody.
        limit = self._network.max_message_size
        if not fits_rpc(topic.encode(), len(data), limit):
            return _Outcome(PushStatus.INVALID_MESSAGE, too_large_text(limit))
        if not self._has_somebody(topic, pusher):
            return _Outcome(PushStatus.NO_PEERS_TO_RELAY, NO_PEERS)
        digest = message_hash(topic, message)
        try:
            sent = await self._sender.send(topic, message, data, digest, SOURCE_RELAY)
        except RelayBadTopic:
            return _Outcome(PushStatus.BAD_REQUEST, "topic must not be empty")
        except (RelayMessageTooLarge, RelayMessageInvalid) as error:
            return _Outcome(PushStatus.INVALID_MESSAGE, str(error))
        # Of a repeat we know that the topic's peers have it, or have been offered it.
        peers = sent.peers if not sent.duplicate else sent.peers or len(self._relay.topic_peers(topic))
        if sent.reached_nobody or not peers:
            return _Outcome(PushStatus.NO_PEERS_TO_RELAY, NO_PEERS)
        return _Outcome(PushStatus.SUCCESS, None, peers)

    def _place(self, content_topic: str) -> str | _Outcome:
        network = self._network
        try:
            if network.shard_count:
                ContentTopic.parse(content_topic)
        except TopicError as error:
            return _Outcome(PushStatus.INVALID_MESSAGE, f"Invalid content-topic:{error}")
        try:
            return autoshard_topic(content_topic, network.cluster, network.shard_count)
        except TopicError as error:
            if not network.shard_count:
                return _Outcome(PushStatus.INVALID_MESSAGE, str(error))
            return _Outcome(PushStatus.INTERNAL_SERVER_ERROR, f"Auto-sharding error: {error}")


def _decode_failure(error: ProtobufError | MessageDecodeError) -> str:
    return f"decode_rpc_failure: {error.nwaku if isinstance(error, ProtobufError) else error}"
