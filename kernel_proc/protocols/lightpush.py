"""Lightpush service: publish for peers that do not run relay (v3 of 19/WAKU2-LIGHTPUSH and legacy v2beta1).

Responses are those of nwaku with one exception: a message the network already has is a success here. nwaku
answers 505, the same as without peers, because its relay does not distinguish the two; its clients then try
one peer after another with a message that was sent long ago.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from ipc_schema.hello import NetworkInfo
from ipc_schema.kernel.events import SOURCE_RELAY
from ipc_schema.message import (
    MessageDecodeError,
    WakuMessage,
    decode_message,
    encode_message,
    message_hash,
)
from ipc_schema.protobuf import ProtobufError
from ipc_schema.sizes import too_large_text
from ipc_schema.topics import ContentTopic, TopicError, autoshard_topic
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Host, PeerIdText
from kernel_proc.protocols.lightpush_codec import (
    LEGACY_PROTOCOL,
    PROTOCOL,
    LegacyResponse,
    PushResponse,
    PushStatus,
    decode_legacy_request,
    decode_request,
    encode_legacy_response,
    encode_response,
)
from kernel_proc.protocols.ratelimit import RateLimiter
from kernel_proc.protocols.reply_head import NO_ID
from kernel_proc.protocols.requests import RequestService, ServiceLimits
from kernel_proc.relay.messages import RelayBadTopic, RelayMessageInvalid, RelayMessageTooLarge
from kernel_proc.relay.rpc_writer import fits_rpc
from kernel_proc.relay.service import RelayService
from kernel_proc.sender import MessageSender, RelayOutcome

ROOM: Final = 1024 * 1024 + 64 * 1024
"""Bytes by which a request may exceed the network's message size and still get a proper response: js-waku
sends messages of up to 1 MB. Longer requests reset the stream."""

TOO_MANY: Final = "Request rejected due to too many requests"
NO_PEERS: Final = "No peers for topic, skipping publish"


class _Outcome(NamedTuple):
    status: PushStatus
    description: str | None = None
    peers: int | None = None


class LightpushService:
    """Both protocol versions on one host. `clock_ns` is the wall clock for messages without a timestamp."""

    def __init__(
        self,
        host: Host,
        sender: MessageSender,
        relay: RelayService,
        network: NetworkInfo,
        registry: Registry,
        limiter: RateLimiter | None = None,
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
        """The protocols to mount. They share one limiter."""

    async def answer(self, peer_id: PeerIdText, body: bytes) -> bytes:
        """Answer a v3 request."""
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
        """Answer a legacy request. The legacy version reports errors as text."""
        request_id, kind = "", "decode_rpc_failure"
        try:
            request = decode_legacy_request(body)
            message = None if request is None else decode_message(request.message)
        except (ProtobufError, MessageDecodeError) as error:
            response = LegacyResponse("", False, _decode_failure(error))
        else:
            # The `info` texts are those of nwaku; legacy clients match on them.
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

    def _has_recipient(self, topic: str, pusher: PeerIdText) -> bool:
        """Return whether a message from this peer could reach any node besides the peer itself.

        A relay node that lost its mesh for a moment may use lightpush through us; sending its message back to
        it alone would not be publishing.
        """
        relay = self._relay
        return topic in relay.subscriptions() or any(peer != pusher for peer in relay.topic_peers(topic))

    async def _push(self, pusher: PeerIdText, topic: str | None, message: WakuMessage) -> _Outcome:
        if topic is None:
            # 19/WAKU2-LIGHTPUSH: without a pubsub topic the service derives it from the content topic.
            placed = self._place(message.content_topic)
            if isinstance(placed, _Outcome):
                return placed
            topic = placed
        elif not topic.strip():
            return _Outcome(PushStatus.BAD_REQUEST, "topic must not be empty")
        # js-waku's relay rejects both and would penalise us for forwarding them.
        if not message.payload:
            return _Outcome(PushStatus.INVALID_MESSAGE, "payload is empty")
        if not message.content_topic:
            return _Outcome(PushStatus.INVALID_MESSAGE, "content topic is empty")
        if self._network.rln_required and not message.proof:
            return _Outcome(PushStatus.INVALID_MESSAGE, "this network takes only messages with an RLN proof")
        if not message.timestamp:
            message = message._replace(timestamp=self._clock_ns())
        # Re-encode, as nwaku does: the same message pushed through two nodes then has the same GossipSub
        # message id.
        data = encode_message(message)
        # As in nwaku's relay, the limit applies to the whole RPC: a message that only just fits without it
        # would reach no peer.
        limit = self._network.max_message_size
        if not fits_rpc(topic.encode(), len(data), limit):
            return _Outcome(PushStatus.INVALID_MESSAGE, too_large_text(limit))
        if not self._has_recipient(topic, pusher):
            return _Outcome(PushStatus.NO_PEERS_TO_RELAY, NO_PEERS)
        digest = message_hash(topic, message)
        try:
            sent = self._sender.send(topic, message, data, digest, SOURCE_RELAY)
            if not isinstance(sent, RelayOutcome):
                sent = await sent
        except RelayBadTopic:
            return _Outcome(PushStatus.BAD_REQUEST, "topic must not be empty")
        except (RelayMessageTooLarge, RelayMessageInvalid) as error:
            return _Outcome(PushStatus.INVALID_MESSAGE, str(error))
        # For a duplicate, the topic's peers already have the message or were offered it.
        peers = sent.peers if not sent.duplicate else sent.peers or len(self._relay.topic_peers(topic))
        if sent.no_recipients or not peers:
            return _Outcome(PushStatus.NO_PEERS_TO_RELAY, NO_PEERS)
        return _Outcome(PushStatus.SUCCESS, None, peers)

    def _place(self, content_topic: str) -> str | _Outcome:
        network = self._network
        try:
            if network.shard_count:
                # nwaku: 420 for an unparsable content topic, 500 for other autosharding failures.
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
