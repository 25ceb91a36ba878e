"""Metrics of host and relay under the names of nwaku and nim-libp2p, made from what both count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from kernel_proc.metrics import Sample
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.relay.service import RelayService

_HOST_ERRORS: Final = {"handler_errors": "stream_handler", "connection_errors": "connection"}
_RELAY_ERRORS: Final = {"validator_errors": "relay_validator", "callback_errors": "relay_listener"}


def transport_samples(host: Libp2pHost) -> Iterable[Sample]:
    """Peers, streams and bytes of the host."""
    yield "libp2p_peers", {}, len({one.peer_id for one in host.connections()})
    received, sent = host.traffic
    yield "libp2p_network_bytes", {"direction": "in"}, received
    yield "libp2p_network_bytes", {"direction": "out"}, sent
    for (direction, protocol), count in host.open_streams().items():
        yield "streams_peers", {"direction": str(direction), "protocol": protocol}, count


def traffic_samples(relay: RelayService) -> Iterable[Sample]:
    """Topics and their bytes."""
    yield "libp2p_pubsub_topics", {}, len(relay.subscriptions())
    yield "libp2p_pubsub_peers", {}, len(relay.peers())
    for topic in relay.subscriptions():
        yield "libp2p_gossipsub_peers_per_topic_mesh", {"topic": topic}, len(relay.mesh_peers(topic))
    for topic, kind, direction, size in relay.traffic():
        yield "relay_network_bytes", {"topic": topic, "type": kind, "direction": direction}, size


def error_samples(host: Mapping[str, int], relay: Mapping[str, int]) -> Iterable[Sample]:
    """Faults of this node itself, by where they showed; what peers do wrong is counted elsewhere."""
    for counters, names in ((host, _HOST_ERRORS), (relay, _RELAY_ERRORS)):
        for name, kind in names.items():
            if name in counters:
                yield "node_errors", {"type": kind}, counters[name]
