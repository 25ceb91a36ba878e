"""Derive connection status and topic health from the kernel's reports. Pure.

Connection status of a core node (Messaging API; nwaku's rule): at least D_low relay peers = Connected,
fewer = PartiallyConnected, none = Disconnected. Of an edge node: by the peers that serve it with filter
(those that confirmed its subscriptions), lightpush and store; none of one kind = Disconnected, two of each
= Connected. Without a kernel the status is Disconnected, with the reason. Topic health is the health of the
topic's shard, by mesh peers or by peers that push it; the shard itself is never shown to an app.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ipc_schema.kernel.records import NodeHealth, ProtocolState, TopicHealth
from ipc_schema.mapi.methods import ConnectionStatus

D_LOW: Final = 4
EDGE_HEALTHY: Final = 2
"""Peers of each kind that an edge node needs to be well served."""
MERGE_SECONDS: Final = 0.1
"""Transitions within this time are merged into one event."""


@dataclass(frozen=True, slots=True)
class NodeConnectionState:
    status: ConnectionStatus
    reason: str
    """Empty when connected; otherwise one short human-readable text."""


@dataclass(frozen=True, slots=True)
class EdgePeers:
    """The service peers of an edge node."""

    filter: int = 0
    """Peers that push the wanted topics, on the shard with the fewest. While nothing is wanted or
    requested yet, the peers that could."""
    lightpush: int = 0
    store: int = 0
    pushing: Mapping[int, int] = field(default_factory=dict)
    """Peers per shard that push what is wanted on it."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """The current facts about the kernel."""

    kernel_up: bool
    kernel_reason: str = ""
    """Why the kernel is not up; empty when it is."""
    relay_off: bool = False
    """The kernel runs without relay."""
    relay_peers: int = 0
    mesh_peers: dict[int, int] | None = None
    """Mesh peers per shard that the kernel is on."""
    edge: EdgePeers | None = None
    """None: a core node."""


def connection_of(facts: NodeFacts) -> NodeConnectionState:
    if not facts.kernel_up:
        return NodeConnectionState(
            ConnectionStatus.DISCONNECTED, facts.kernel_reason or "kernel is not reachable"
        )
    if facts.edge is not None:
        return _edge_connection(facts.edge)
    if facts.relay_peers >= D_LOW:
        return NodeConnectionState(ConnectionStatus.CONNECTED, "")
    if facts.relay_peers > 0:
        return NodeConnectionState(
            ConnectionStatus.PARTIALLY_CONNECTED, f"{facts.relay_peers} of {D_LOW} relay peers"
        )
    reason = "relay is off at the kernel: this needs mode edge" if facts.relay_off else "no relay peers"
    return NodeConnectionState(ConnectionStatus.DISCONNECTED, reason)


def _edge_connection(peers: EdgePeers) -> NodeConnectionState:
    kinds = {"filter": peers.filter, "lightpush": peers.lightpush, "store": peers.store}
    lacking = [kind for kind, count in kinds.items() if count < 1]
    if lacking:
        return NodeConnectionState(ConnectionStatus.DISCONNECTED, f"no {' or '.join(lacking)} peers")
    few = [f"{count} of {EDGE_HEALTHY} {kind} peers" for kind, count in kinds.items() if count < EDGE_HEALTHY]
    if few:
        return NodeConnectionState(ConnectionStatus.PARTIALLY_CONNECTED, ", ".join(few))
    return NodeConnectionState(ConnectionStatus.CONNECTED, "")


def shard_health(facts: NodeFacts, shard: int) -> TopicHealth:
    """Return the health of a shard that some app wants, by its mesh peers or the peers that push it."""
    if not facts.kernel_up:
        return TopicHealth.UNHEALTHY
    if facts.edge is not None:
        return TopicHealth.of_filter(facts.edge.pushing.get(shard, 0))
    return TopicHealth.of_mesh((facts.mesh_peers or {}).get(shard, 0))


_RELAY: Final = "Relay"
_LIGHTPUSH_CLIENTS: Final = ("Lightpush Client", "Legacy Lightpush Client")
_STORE_CLIENT: Final = "Store Client"


def node_facts(health: NodeHealth, *, kernel_up: bool, reason: str, edge: EdgePeers | None) -> NodeFacts:
    """Extract the facts from a kernel's report."""
    relay = next((protocol for protocol in health.protocols if protocol.name == _RELAY), None)
    return NodeFacts(
        kernel_up=kernel_up,
        kernel_reason=reason,
        relay_off=relay is not None and relay.state == ProtocolState.NOT_MOUNTED,
        relay_peers=relay.strength if relay is not None else 0,
        mesh_peers={shard.shard: shard.mesh_peers for shard in health.shards},
        edge=edge,
    )


def edge_peers(health: NodeHealth | None, pushing: Mapping[int, int], able: int) -> EdgePeers:
    """Combine the service peers of an edge node from the kernel's last report, the peers that push (by
    shard), and the peers that are able to push.
    """
    if health is None:
        return EdgePeers()
    strengths = {protocol.name: protocol.strength for protocol in health.protocols}
    return EdgePeers(
        filter=min(pushing.values()) if pushing else able,
        lightpush=max(strengths.get(name, 0) for name in _LIGHTPUSH_CLIENTS),
        store=strengths.get(_STORE_CLIENT, 0),
        pushing=pushing,
    )


class HealthTransition:
    """Merges quick transitions: `update` says when to `settle`, and `settle` returns the changes to notify
    apps of."""

    def __init__(self) -> None:
        self.notified = NodeConnectionState(ConnectionStatus.DISCONNECTED, "starting")
        self._notified_shards: dict[int, TopicHealth] = {}
        self.facts = NodeFacts(kernel_up=False, kernel_reason="starting")
        self.settle_at: float | None = None
        """When `settle` is due, on the clock given to `update`; None if nothing is pending."""
        self._wanted: frozenset[int] = frozenset()

    def connection(self) -> NodeConnectionState:
        """Return the status as of the newest facts, whether apps were notified of it or not."""
        return connection_of(self.facts)

    def shard(self, shard: int) -> TopicHealth:
        return shard_health(self.facts, shard)

    def update(self, facts: NodeFacts, wanted: frozenset[int], now: float) -> None:
        """Take new facts, or a new set of wanted shards."""
        self.facts = facts
        self._wanted = wanted
        if self.settle_at is None and self._differs():
            self.settle_at = now + MERGE_SECONDS

    def _differs(self) -> bool:
        if connection_of(self.facts).status != self.notified.status:
            return True
        current = {shard: shard_health(self.facts, shard) for shard in self._wanted}
        return current != self._notified_shards

    def settle(self, now: float) -> tuple[NodeConnectionState | None, dict[int, TopicHealth]]:
        """Return what changed since the last settling: the connection (or None) and the shards whose health
        changed."""
        if self.settle_at is None or now < self.settle_at:
            return None, {}
        self.settle_at = None
        connection = connection_of(self.facts)
        changed = connection if connection.status != self.notified.status else None
        self.notified = connection
        current = {shard: shard_health(self.facts, shard) for shard in self._wanted}
        shards = {
            shard: health for shard, health in current.items() if self._notified_shards.get(shard) != health
        }
        self._notified_shards = current
        return changed, shards
