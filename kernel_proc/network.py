"""The network side of a node: host, relay, metadata, peering and peer book, wired together."""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Final

import trio

from ipc_schema.config.kernel import KernelConfig
from ipc_schema.kernel.records import PeerChange, PeerRecord, ProtocolHealth, ProtocolState
from ipc_schema.message import WakuMessage
from ipc_schema.topics import shard_topic
from kernel_proc.health import relay_health
from kernel_proc.metrics import Registry, Sample
from kernel_proc.network_samples import error_samples, traffic_samples, transport_samples
from kernel_proc.p2p.api import PeerIdText
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.tls import ServerCertificate
from kernel_proc.peering.service import Peering
from kernel_proc.peering.settings import services_wanted
from kernel_proc.peers.connected_peers import PeerBook
from kernel_proc.peers.dialer import StaticDialer
from kernel_proc.peers.known import PeerOrigin
from kernel_proc.peers.needs import Needs
from kernel_proc.peers.offers import OfferOutcome, Offers
from kernel_proc.protocols.lightpush_codec import LEGACY_PROTOCOL as LEGACY_LIGHTPUSH_PROTOCOL
from kernel_proc.protocols.lightpush_codec import PROTOCOL as LIGHTPUSH_PROTOCOL
from kernel_proc.protocols.metadata import PROTOCOL as METADATA_PROTOCOL
from kernel_proc.protocols.metadata import Metadata, MetadataProtocol
from kernel_proc.protocols.store_codec import PROTOCOL as STORE_PROTOCOL
from kernel_proc.relay.messages import RelayMessage
from kernel_proc.relay.params import AGENT_PREFIX, RELAY_PROTOCOL, GossipParams, RelayParams, ScoreParams
from kernel_proc.relay.service import RelayService
from kernel_proc.relay.state import PxOffer
from kernel_proc.relay.validation import SignedShard, Verdict
from kernel_proc.shards import Shards
from logos_process.logs import fields
from logos_process.version import version

log = logging.getLogger(__name__)

PROTOCOLS: Final = (
    RELAY_PROTOCOL,
    METADATA_PROTOCOL,
    STORE_PROTOCOL,
    LIGHTPUSH_PROTOCOL,
    LEGACY_LIGHTPUSH_PROTOCOL,
)
"""The protocols by which connected peers are counted."""


def listen_addresses(config: KernelConfig) -> list[str]:
    """Return the multiaddrs to listen on: TCP, and WebSocket if enabled."""
    addresses = []
    for host in config.listen_hosts:
        base = f"/ip{ipaddress.ip_address(host).version}/{host}/tcp"
        addresses.append(f"{base}/{config.tcp_port}")
        if config.websocket_port is not None:
            addresses.append(f"{base}/{config.websocket_port}/{'wss' if config.websocket_tls else 'ws'}")
    return addresses


def host_limits(config: KernelConfig) -> HostLimits:
    """Return the host's limits: a fifth of all connections is reserved for outbound ones."""
    total = config.peers.max_connections
    return HostLimits(
        max_connections=total,
        max_inbound=max(1, total - max(1, total // 5)),
        max_per_ip=config.peers.ip_colocation_limit,
    )


def no_peers_text(shard: int, connected: int, troubles: Sequence[tuple[float, str]]) -> str:
    """Explain why there is no peer. `troubles` are (time, reason) of failed dials; a configured address
    counts as the latest."""
    if connected:
        return f"{connected} peer{'s' * (connected > 1)} connected, none on shard {shard}"
    if not troubles:
        return "no peer is connected"
    return f"no peer is connected; last dial: {max(troubles, key=lambda one: one[0])[1]}"


def score_params(config: KernelConfig) -> ScoreParams:
    """Return the relay's score parameters: peers at one address are only penalised beyond what admission
    allows."""
    return ScoreParams(colocation_threshold=config.peers.ip_colocation_limit)


class Network:
    """Create it before anything is bound; `start` it in a nursery to bind and run.

    `peer_changed` is called with every change of a peer, `health_changed` when protocol or shard health may
    have changed.
    """

    def __init__(
        self,
        config: KernelConfig,
        key: NodeKey,
        shards: Shards,
        registry: Registry,
        rng: Random,
        *,
        certificate: ServerCertificate | None = None,
        peer_changed: Callable[[PeerChange, PeerRecord], None],
        health_changed: Callable[[], None],
    ) -> None:
        self._shards = shards
        self._health_changed = health_changed
        self.host = Libp2pHost(
            key=key,
            listen=listen_addresses(config),
            limits=host_limits(config),
            certificate=certificate,
            agent=config.peers.agent_string or f"{AGENT_PREFIX}{version()}",
        )
        self._notify_peer = peer_changed
        self.book = PeerBook(trio.current_time, self._peer_changed)
        self.host.add_listener(self.book)
        self._protected = [
            SignedShard(shard_topic(config.network.cluster, one.shard), one.public_key, time.time_ns)
            for one in config.protected_shards
        ]
        self.relay = self._make_relay(config) if config.peers.relay else None
        self.metadata = MetadataProtocol(
            self.host,
            cluster=config.network.cluster,
            # A node without relay carries no shards, whatever it records: peers should not connect to it for
            # one.
            shards=shards.joined if config.peers.relay else tuple,
            learned=self._learned,
            other_network=lambda peer_id, why: self.peering.manager.other_network(peer_id, why),
        )
        self.dialer = StaticDialer(
            self.host,
            (*config.entry_nodes, *config.static_nodes, *config.services.nodes),
            registry,
            rng,
            connected=lambda peer_id, address: self.peering.manager.operator_peer_found(peer_id, address),
        )
        self.host.add_listener(self.dialer)
        needs = Needs(config.network.cluster, services_wanted(config), self.relay, self.metadata, shards)
        self.peering = Peering(config, key, self.host, self.relay, needs, self.book, registry, rng)
        named = {outcome: registry.counter("relay_px_peers", outcome=outcome) for outcome in OfferOutcome}
        self._offers = Offers(
            is_known=lambda peer_id: peer_id == key.peer_id or self.host.is_connected(peer_id),
            learn=self._learn_offered,
            count=lambda outcome: named[outcome].add(),
        )
        registry.add_source(self._samples)

    def _make_relay(self, config: KernelConfig) -> RelayService:
        relay = RelayService(
            self.host,
            RelayParams(
                max_rpc_size=config.network.max_message_size,
                gossip=GossipParams(peer_exchange=config.peers.relay_peer_exchange),
                score=score_params(config),
            ),
            on_message=self._on_message,
            on_change=self._relay_changed,
            on_peer_exchange=self._offered,
        )
        for validator in self._protected:
            relay.add_validator(validator)
        self.book.relay = relay
        return relay

    # --- events of the parts ---

    def _learn_offered(self, peer_id: PeerIdText, addresses: Sequence[str], offering: PeerIdText) -> bool:
        return self.peering.manager.learn(
            peer_id, addresses, PeerOrigin.PRUNE, source=f"offered by {offering}"
        )

    def _peer_changed(self, change: PeerChange, record: PeerRecord) -> None:
        self._notify_peer(change, record)
        self._health_changed()

    def _on_message(self, message: RelayMessage) -> None:
        self._shards.on_message(message.topic, message.message, len(message.data))

    def _relay_changed(self, topics: frozenset[str]) -> None:
        self._shards.relay_changed(topics)
        self._health_changed()

    def _offered(self, offer: PxOffer) -> None:
        """Process the peers suggested in a PRUNE."""
        used = self._offers.take(offer.peer, offer.peers, trio.current_time())
        log.debug(
            "peers suggested in a PRUNE",
            extra=fields(peer=offer.peer, topic=offer.topic, peers=len(offer.peers), used=used),
        )

    def _learned(self, peer_id: PeerIdText, metadata: Metadata) -> None:
        if metadata.cluster is not None:
            self.book.set_metadata(peer_id, metadata.cluster, metadata.shards)
            self.peering.manager.peer_described(peer_id, metadata.cluster, metadata.shards)

    def is_valid(self, topic: str, message: WakuMessage) -> bool:
        """Return whether a message received outside relay would pass the relay's validators."""
        seen = RelayMessage(topic, b"", message, b"", "", 0)
        return all(validator(seen) is Verdict.ACCEPT for validator in self._protected)

    def is_signed(self, topic: str, message: WakuMessage) -> bool:
        """Return whether a message of any age, from another store, is signed as its shard demands."""
        return all(validator.is_signed(topic, message) for validator in self._protected)

    # --- inspection ---

    def no_peers_text(self, shard: int) -> str:
        """Explain why a message found no peer on the shard: the connected peers, or else the last failed
        dial."""
        troubles = [
            *((peer.last_attempt, peer.why) for peer in self.peering.store if peer.why and peer.failures),
            *((math.inf, f"{address}: {why}") for address, why in self.dialer.troubles.items()),
        ]
        return no_peers_text(shard, len(self.host.connections()), troubles)

    def protocols(self) -> list[ProtocolHealth]:
        """Return the health of relay and metadata."""
        peers = len(self.relay.peers()) if self.relay else 0
        known = sum(record.cluster is not None for record in self.book.records())
        return [
            relay_health(peers, mounted=self.relay is not None),
            ProtocolHealth(name="Metadata", state=ProtocolState.READY, strength=known),
        ]

    def bound_ports(self) -> dict[str, int]:
        """Return the ports by nwaku's names; 0: off."""
        ports = dict.fromkeys(("tcp", "webSocket", "quic", "rest", "discv5Udp", "metrics"), 0)
        for address in self.host.listen_addresses:
            parts = address.split("/")
            kind = "tcp" if {"ws", "wss"}.isdisjoint(parts) else "webSocket"
            # With automatic ports those of IPv4, which comes first, and of IPv6 may differ.
            ports[kind] = ports[kind] or int(parts[parts.index("tcp") + 1])
        for endpoint in self.peering.discv5.bound:
            ports["discv5Udp"] = ports["discv5Udp"] or endpoint.port
        return ports

    def _samples(self) -> Iterable[Sample]:
        yield from self.book.samples(PROTOCOLS)
        for name, value in self.host.counters().items():
            yield f"p2p_{name}", {}, value
        for name, value in self.metadata.counters().items():
            yield f"metadata_{name}", {}, value
        yield from transport_samples(self.host)
        yield from error_samples(self.host.counters(), self.relay.counters() if self.relay else {})
        if self.relay is None:
            return
        yield from traffic_samples(self.relay)
        counters = self.relay.counters()
        accepted = {"result": "accepted"}, {"result": "rejected"}
        yield "msg_validator_signed_outcome", accepted[0], counters.get("delivered", 0)
        yield "msg_validator_signed_outcome", accepted[1], counters.get("rejected", 0)
        for name, value in counters.items():
            yield f"relay_{name}", {}, value
