"""A network of simulated nodes: connections, discovery, traffic, churn, and the record of what arrived."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from kernel_proc.peers.known import KnownPeer
from kernel_proc.peers.plan import Targets
from kernel_proc.relay.cache import CachedMessage
from kernel_proc.relay.params import RelayParams
from tests.simulation.relay.events import EventQueue
from tests.simulation.relay.links import Frame, LinkModel
from tests.simulation.relay.node import SimulatedNode, topic_of

INVALID: Final = b"\xff"
"""First byte of a message that no honest node takes."""
LOOK_SECONDS: Final = 0.25
FOUND: Final = 16
"""Nodes that one walk of discovery finds."""
MAX_CONNECTIONS: Final = 50
FOR_RELAY: Final = 40

NodeClass = Callable[["Network", int, tuple[int, ...], RelayParams], SimulatedNode]


@dataclass(frozen=True, slots=True)
class Settings:
    """One run. Rates are messages/s in the whole network; times are in seconds."""

    nodes: int
    shards: int = 1
    size: int = 1024
    """Bytes of a message."""
    rate: float = 1.0
    seconds: float = 60.0
    """How long messages are published, after the network has settled."""
    settle: float = 30.0
    drain: float = 15.0
    session: float = 0.0
    """Mean life of a node under churn; 0: no churn. It is back after a tenth of it on average."""
    outage: float = 0.0
    """Share of the nodes that go at one moment, after a fifth of `seconds`, and stay away."""
    publisher: int | None = None
    """The node that publishes everything; None: any."""
    seed: int = 1
    params: RelayParams = field(default_factory=RelayParams)
    links: LinkModel = field(default_factory=LinkModel)
    others: tuple[tuple[NodeClass, int], ...] = ()
    """Nodes that are not honest: their class, and how many."""


@dataclass(slots=True)
class Sent:
    """One message: who was to have it, and who had it when."""

    at: float
    publisher: int
    due: set[int]
    """Honest nodes on the shard that were up at the time."""
    latencies: dict[int, float] = field(default_factory=dict)
    hops: dict[int, int] = field(default_factory=dict)


class Network:
    """All nodes of a run."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.rng = Random(settings.seed)
        self.events = EventQueue()
        self.links = settings.links
        self.targets = Targets.of(MAX_CONNECTIONS, FOR_RELAY)
        self.sent: dict[bytes, Sent] = {}
        self.recovered: float | None = None
        """Seconds from the outage until every node that is left had a full mesh; None before."""
        self.lost_frames = 0
        """Frames that met a closed connection."""
        self.nodes = [self._make(SimulatedNode, index, settings) for index in range(settings.nodes)]
        for kind, count in settings.others:
            start = len(self.nodes)
            self.nodes += [self._make(kind, index, settings) for index in range(start, start + count)]
        self._by_id = {node.peer_id: node for node in self.nodes}
        self._known = [
            KnownPeer(
                node.peer_id,
                addresses=(f"/ip4/{node.ip}/tcp/60000",),
                origin="discv5",
                source=node.peer_id,
                cluster=42,
                shards=node.shards,
                group=node.ip,
            )
            for node in self.nodes
        ]
        self._on_shard = [
            [node.index for node in self.nodes if shard in node.shards] for shard in range(settings.shards)
        ]

    def _make(self, kind: NodeClass, index: int, settings: Settings) -> SimulatedNode:
        return kind(self, index, (index % settings.shards,), settings.params)

    def node(self, peer_id: str) -> SimulatedNode:
        """The node of a peer id."""
        return self._by_id[peer_id]

    # -- a run ------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Start all nodes within some seconds, let them settle, publish, and wait for what is under way."""
        settings, events = self.settings, self.events
        for node in self.nodes:
            events.at(self.rng.random() * settings.settle / 6, node.start)
        if settings.session:
            for node in self.nodes:
                events.at(settings.settle + self.rng.expovariate(1 / settings.session), self._leave, node)
        events.run_until(settings.settle)
        self._reset_traffic()
        if settings.outage:
            events.after(settings.seconds / 5, self._outage)
        for number in range(round(settings.rate * settings.seconds)):
            events.at(settings.settle + (number + self.rng.random()) / settings.rate, self._publish, number)
        events.run_until(settings.settle + settings.seconds + settings.drain)

    def _reset_traffic(self) -> None:
        for node in self.nodes:
            node.received_bytes = node.duplicates = 0
            node.uplink.sent_bytes = node.uplink.control_bytes = 0

    def _publish(self, number: int) -> None:
        shard = number % self.settings.shards
        chosen = self.settings.publisher
        publisher = self.pick(shard) if chosen is None else self.nodes[chosen]
        head = number.to_bytes(8, "big")
        self.send(publisher, shard, head + self.rng.randbytes(16) + bytes(max(0, self.settings.size - 24)))

    def pick(self, shard: int) -> SimulatedNode:
        """An honest node of a shard that is up."""
        while True:
            node = self.nodes[self.rng.choice(self._on_shard[shard])]
            if node.up and node.honest:
                return node

    def send(self, publisher: SimulatedNode, shard: int, data: bytes) -> Sent:
        """Publish a message, and record who is to have it."""
        due = {
            index
            for index in self._on_shard[shard]
            if (node := self.nodes[index]).up and node.honest and node is not publisher
        }
        sent = Sent(self.events.now, publisher.index, due)
        self.sent[publisher.publish(shard, data)] = sent
        return sent

    def _outage(self) -> None:
        honest = [node for node in self.nodes if node.honest]
        for node in self.rng.sample(honest, round(len(honest) * self.settings.outage)):
            self._stop(node)
        self._look(self.events.now)

    def _look(self, since: float) -> None:
        if self.healthy() == 1.0:
            self.recovered = self.events.now - since
        else:
            self.events.after(LOOK_SECONDS, self._look, since)

    def _stop(self, node: SimulatedNode) -> None:
        node.stop()
        for sent in reversed(self.sent.values()):  # a node that leaves need not get what is under way
            if self.events.now - sent.at > self.settings.drain:
                break
            if node.index not in sent.latencies:
                sent.due.discard(node.index)

    def _leave(self, node: SimulatedNode) -> None:
        self._stop(node)
        self.events.after(self.rng.expovariate(10 / self.settings.session), self._return, node)

    def _return(self, node: SimulatedNode) -> None:
        node.start()
        self.events.after(self.rng.expovariate(1 / self.settings.session), self._leave, node)

    # -- between nodes ----------------------------------------------------------------------------------

    def discover(self, node: SimulatedNode) -> Iterable[KnownPeer]:
        """Some nodes of the shards of a node, as a walk over discv5 with its filter finds them."""
        for _ in range(FOUND):
            shard = self.rng.choice(node.shards)
            found = self.rng.choice(self._on_shard[shard])
            if found != node.index and self.nodes[found].up:
                yield self._known[found]

    def connect(self, one: SimulatedNode, other: SimulatedNode) -> bool:
        """Connect two nodes. False if the other is away or full."""
        if other.peer_id in one.linked:
            return True
        if not (one.up and other.up) or len(other.linked) >= MAX_CONNECTIONS:
            return False
        one.linked_to(other, outbound=True)
        other.linked_to(one, outbound=False)
        return True

    def disconnect(self, one: SimulatedNode, other: SimulatedNode) -> None:
        """End the connection of two nodes."""
        if other.peer_id in one.linked:
            one.unlinked(other.peer_id)
            other.unlinked(one.peer_id)

    def carry(self, sender: SimulatedNode, to: str, frame: Frame) -> None:
        """Bring a frame that has left a node to its receiver."""
        receiver = self.node(to)
        delay = self.links.latency(sender.place, receiver.place) + self.links.processing
        linked_at = receiver.linked_at.get(sender.peer_id, -1.0)
        self.events.after(delay, self._arrive, sender.peer_id, receiver, frame, linked_at)

    def _arrive(self, sender: str, receiver: SimulatedNode, frame: Frame, linked_at: float) -> None:
        if sender not in receiver.linked or receiver.linked_at[sender] != linked_at:
            self.lost_frames += 1
            return
        receiver.receive(sender, frame)

    # -- messages ---------------------------------------------------------------------------------------

    def valid(self, message: CachedMessage) -> bool:
        """The verdict of every honest node."""
        return not message.data.startswith(INVALID)

    def arrived(self, message_id: bytes, node: SimulatedNode, hops: int) -> None:
        """Record when a node had a message first."""
        sent = self.sent.get(message_id)
        # A node that came back with an empty seen cache may get it once more.
        if sent is not None and node.index in sent.due and node.index not in sent.latencies:
            sent.latencies[node.index] = self.events.now - sent.at
            sent.hops[node.index] = hops

    def hops(self, message_id: bytes, node: SimulatedNode) -> int:
        """Hops that a message made to a node."""
        sent = self.sent.get(message_id)
        return 0 if sent is None else sent.hops.get(node.index, 0)

    def healthy(self) -> float:
        """Share of the honest nodes that are up whose mesh has at least D_low peers on each shard."""
        least = self.settings.params.gossip.d_low
        here = [node for node in self.nodes if node.up and node.honest]
        good = sum(
            all(len(node.router.mesh_peers(topic_of(shard))) >= least for shard in node.shards)
            for node in here
        )
        return good / len(here) if here else 0.0
