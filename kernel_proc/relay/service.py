"""The relay service: the router core, its peers' streams, its heartbeat, and the interface of the kernel."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from random import Random, SystemRandom
from typing import TypeVar

import trio

from ipc_schema.message import WakuMessage
from kernel_proc.p2p import peer_ids
from kernel_proc.p2p.api import Direction, EndCause, Host, PeerConnection, PeerIdentity, Stream
from kernel_proc.relay.intake import Intake
from kernel_proc.relay.link import PeerLink
from kernel_proc.relay.messages import (
    PublishResult,
    RelayBadTopic,
    RelayMessage,
)
from kernel_proc.relay.params import AGENT_PREFIX, RELAY_PROTOCOL, RelayParams
from kernel_proc.relay.publisher import RelayPublisher
from kernel_proc.relay.router import Router
from kernel_proc.relay.rpc import PeerInfo
from kernel_proc.relay.scores import ScoreParts
from kernel_proc.relay.state import OutgoingRpc, PxOffer
from kernel_proc.relay.traffic import TrafficBook
from kernel_proc.relay.validation import Validator

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_MAX_INBOUND_STREAMS = 4
"""Inbound streams allowed per peer: the newest is read while its predecessor is being closed."""

COUNTERS = (
    "received",
    "received_bytes",
    "rpcs",
    "rpcs_malformed",
    "rpcs_graylisted",
    "frames_refused",
    "not_subscribed",
    "duplicates",
    "delivered",
    "forwarded",
    "ignored",
    "rejected",
    "dropped_signed",
    "rejected_undecodable",
    "oversize_ignored",
    "validator_errors",
    "callback_errors",
    "published",
    "publish_timeouts",
    "dropped_messages",
    "dropped_bytes",
    "dropped_control",
    "streams_opened",
    "streams_lost",
    "streams_replaced",
    "peers_given_up",
    "peers_graylisted",
    "unexpected_bytes",
)


class RelayService:
    """Waku relay (11/WAKU2-RELAY) on a libp2p host.

    `on_message` is called for each new valid message on a subscribed topic, where the connection is read,
    which may be outside of any task; it must neither block nor raise. Our own messages are not delivered:
    `publish` returns whether they were new. `on_change` is called with the topics whose mesh or subscribers
    changed. `on_peer_exchange` receives the unverified peers suggested in a PRUNE, if
    `GossipParams.peer_exchange` is set.
    """

    def __init__(
        self,
        host: Host,
        params: RelayParams | None = None,
        *,
        on_message: Callable[[RelayMessage], None] | None = None,
        on_change: Callable[[frozenset[str]], None] | None = None,
        on_peer_exchange: Callable[[PxOffer], None] | None = None,
        rng: Random | None = None,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.params = params or RelayParams()
        self.on_message = on_message
        self.on_change = on_change
        self.on_peer_exchange = on_peer_exchange
        self._host = host
        self._router = Router(self.params.gossip, self.params.score, rng or SystemRandom())
        self._validators: list[Validator] = []
        self._links: dict[str, PeerLink] = {}
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._nursery: trio.Nursery | None = None
        self._published = time.perf_counter()
        self._publisher = RelayPublisher(
            self._router, self._validators, self._links, self.params, self._counters, wall_clock_ns
        )
        self._intake = Intake(
            self._router,
            self._validators,
            self._links,
            self.params,
            self._counters,
            deliver=self._deliver,
            flush=self._flush,
        )

    # -- life -------------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Call only once."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._host.add_listener(self)
            self._host.set_stream_handler(RELAY_PROTOCOL, self._serve, max_per_peer=_MAX_INBOUND_STREAMS)
            try:
                for connection in self._host.connections():
                    identity = self._host.identity(connection.peer_id)
                    if identity is not None:
                        self.peer_identified(identity)
                task_status.started()
                await self._beat()
            finally:
                self._nursery = None
                self._host.remove_stream_handler(RELAY_PROTOCOL)
                for link in list(self._links.values()):
                    link.close()

    async def _beat(self) -> None:
        gossip = self.params.gossip
        due = trio.current_time() + gossip.heartbeat_initial_delay
        while True:
            await trio.sleep_until(due)
            now = trio.current_time()
            self._router.heartbeat(now)
            self._flush()
            due = max(due + gossip.heartbeat_interval, now + gossip.heartbeat_interval / 2)

    # -- the host's events ------------------------------------------------------------------------------

    def peer_connected(self, connection: PeerConnection) -> None:
        """Wait for identify, or for an inbound relay stream, to learn whether the peer speaks relay."""

    def peer_identified(self, identity: PeerIdentity) -> None:
        if RELAY_PROTOCOL in identity.protocols:
            self._link_to(identity.peer_id)
        self._describe(identity)
        self._flush()

    def _describe(self, identity: PeerIdentity) -> None:
        same_implementation = identity.agent.startswith(AGENT_PREFIX)
        self._router.describe_peer(
            identity.peer_id,
            _info(identity),
            same_implementation=same_implementation,
            now=trio.current_time(),
        )

    def was_linked(self, peer_id: str, age: float) -> None:
        """Record that the previous run of this node was connected to the peer until `age` seconds ago: the
        peer may keep an unannounced back-off for us."""
        self._router.was_linked(peer_id, age, trio.current_time())

    def peer_disconnected(self, peer_id: str, reason: str, cause: EndCause = EndCause.OTHER) -> None:  # noqa: ARG002 - HostEvents
        link = self._links.pop(peer_id, None)
        if link is not None:
            link.close()
            self._router.remove_peer(peer_id, trio.current_time())
            self._flush()

    # -- links ------------------------------------------------------------------------------------------

    def _link_to(self, peer_id: str) -> PeerLink | None:
        """Return the link to a connected peer that speaks relay, creating it if necessary; None while not
        running."""
        link = self._links.get(peer_id)
        if link is not None or self._nursery is None:
            return link
        connection = next((c for c in self._host.connections() if c.peer_id == peer_id), None)
        if connection is None:
            return None
        outbound = connection.direction is Direction.OUTBOUND
        self._router.add_peer(peer_id, connection.ip, trio.current_time(), outbound=outbound)
        if (identity := self._host.identity(peer_id)) is not None:
            self._describe(identity)
        peer = self._router.peer(peer_id)
        assert peer is not None
        link = PeerLink(self._host, peer, self.params, self._counters, self._hello, self._stream_lost)
        self._links[peer_id] = link
        self._nursery.start_soon(self._run_link, link)
        self._flush()
        return link

    async def _run_link(self, link: PeerLink) -> None:
        await link.run()
        if self._links.get(link.peer_id) is link:  # unless a link of a new connection has replaced it
            self.peer_disconnected(link.peer_id, "no relay stream")

    def _hello(self, link: PeerLink) -> OutgoingRpc:
        self._flush()
        return self._router.hello(link.peer_id, trio.current_time())

    def _stream_lost(self, link: PeerLink) -> None:
        if self._links.get(link.peer_id) is link:
            self._router.stream_lost(link.peer_id, trio.current_time())
            self._flush()

    async def _serve(self, stream: Stream) -> None:
        """Handle an inbound relay stream."""
        link = self._link_to(stream.peer_id)
        if link is None:
            await stream.reset()
            return
        before, link.inbound = link.inbound, stream
        if before is not None or link.inbound_count:
            self._counters["streams_replaced"] += 1
            self._router.stream_replaced(link.peer_id, trio.current_time())
        link.inbound_count += 1
        if before is not None:
            self._stream_lost(link)  # before reading the new stream, on which a GRAFT counts again
            await before.reset()
        with trio.CancelScope() as scope:
            link.readers.add(scope)
            try:
                await self._intake.read(stream, link.peer)
            finally:
                link.readers.discard(scope)
                if link.inbound is stream:
                    link.inbound = None
                    self._stream_lost(link)
        if scope.cancelled_caught:
            await stream.reset()

    # -- topics -----------------------------------------------------------------------------------------

    def subscribe(self, topic: str) -> bool:
        """Subscribe to a pubsub topic. Return False if already subscribed. Raise RelayBadTopic."""
        _check_topic(topic)
        new = self._router.subscribe(topic, trio.current_time())
        self._flush()
        return new

    def unsubscribe(self, topic: str) -> bool:
        """Unsubscribe from a pubsub topic. Return False if not subscribed.

        Keeps the validators: a protected shard stays protected.
        """
        known = self._router.unsubscribe(topic, trio.current_time())
        self._flush()
        return known

    def subscriptions(self) -> list[str]:
        return self._router.subscriptions()

    def add_validator(self, validator: Validator) -> None:
        """Add a validator for the decoded messages on every topic, whether we are subscribed or not."""
        self._validators.append(validator)

    # -- publishing -------------------------------------------------------------------------------------

    async def publish(
        self, topic: str, data: bytes, *, message: WakuMessage | None = None, force: bool = False
    ) -> PublishResult:
        """Publish an encoded WakuMessage to the peers of a topic; see `RelayPublisher.publish`."""
        result = self.begin_publish(topic, data, message=message, force=force)
        if not isinstance(result, PublishResult):
            result = await result
        if time.perf_counter() - self._published > self.params.max_hold:
            # Not on every call: a burst of publishes should fill whole writes instead of one message per
            # write.
            await trio.lowlevel.checkpoint()
            self._published = time.perf_counter()
        return result

    def begin_publish(
        self, topic: str, data: bytes, *, message: WakuMessage | None = None, force: bool = False
    ) -> PublishResult | Awaitable[PublishResult]:
        """`publish` for callers that let others run themselves. An awaitable only if it has to wait."""
        _check_topic(topic)
        return self._publisher.publish(topic, data, message=message, force=force)

    # -- output of the core ---------------------------------------------------------------------------------

    def _deliver(self, message: RelayMessage) -> None:
        if self.on_message is not None:
            self._call(self.on_message, message)

    def _call(self, callback: Callable[[_T], None], value: _T) -> None:
        try:
            callback(value)
        except Exception:
            # A bug in a listener must not end the stream of the peer whose bytes triggered it.
            self._counters["callback_errors"] += 1
            log.exception("relay listener raised")

    def _flush(self) -> None:
        """Send the output that the core has collected and report what has changed."""
        router = self._router
        for peer_id, outgoing in router.take_pending().items():
            link = self._links.get(peer_id)
            if link is not None:
                for message in outgoing.messages:  # a peer asked for it (IWANT): one more copy
                    router.traffic.of(message.topic_name).gross_out += len(message.data)
                link.send(outgoing)
        changed = router.take_changed()
        if changed and self.on_change is not None:
            self._call(self.on_change, frozenset(changed))
        for offer in router.take_px_offers():
            if self.on_peer_exchange is not None:
                self._call(self.on_peer_exchange, offer)
        bad = router.take_bad_peers()
        if bad:
            self._disconnect(bad)

    def _disconnect(self, peers: Iterable[str]) -> None:
        for peer_id in peers:
            self._counters["peers_graylisted"] += 1
            log.info("relay peer %s fell below the graylist threshold", peer_id)
            if self.params.score.disconnect_bad_peers and self._nursery is not None:
                self._nursery.start_soon(
                    self._host.disconnect, peer_id, "relay score below graylist threshold"
                )

    # -- inspection -------------------------------------------------------------------------------------

    def peers(self) -> list[str]:
        """Connected peers that speak relay."""
        return self._router.peers()

    def mesh_peers(self, topic: str) -> list[str]:
        return self._router.mesh_peers(topic)

    def topic_peers(self, topic: str) -> list[str]:
        """Return the peers subscribed to a topic, whether or not we are."""
        return self._router.topic_peers(topic)

    def score(self, peer_id: str) -> ScoreParts | None:
        """Return a connected peer's score with its components."""
        return self._router.score_parts(peer_id, trio.current_time())

    def traffic(self) -> TrafficBook:
        """Bytes of messages by topic since the start."""
        return self._router.traffic

    def counters(self) -> dict[str, int]:
        """Return monotonic counters and current sizes (`queued_bytes`, `cache_*`, `seen_ids`, `backoffs`)."""
        return {
            **self._counters,
            **self._router.counters(),
            "queued_bytes": sum(link.queued_bytes for link in self._links.values()),
        }


def _check_topic(topic: str) -> None:
    if not topic.strip():
        raise RelayBadTopic("the pubsub topic is empty")


def _info(identity: PeerIdentity) -> PeerInfo | None:
    """Return the peer info to share in PX: the signed peer record, if it has addresses."""
    record = identity.record
    if record is None or not record.addresses:
        return None
    return PeerInfo(peer_ids.to_bytes(record.peer_id), record.envelope)
