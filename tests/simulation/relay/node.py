"""One node: the router core and the peer plan of the kernel on a simulated uplink."""

from __future__ import annotations

from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING, Final

from kernel_proc.peers.known import KnownPeer
from kernel_proc.peers.plan import Connected, PeerNeeds, plan
from kernel_proc.relay.cache import CachedMessage
from kernel_proc.relay.params import RelayParams
from kernel_proc.relay.router import Router
from kernel_proc.relay.rpc_reader import decode_rpc
from kernel_proc.relay.rpc_writer import encode_control, encode_subscriptions, message_rpc_size
from kernel_proc.relay.state import OutgoingRpc, Peer
from tests.simulation.relay.links import Frame, Uplink, wire_size

if TYPE_CHECKING:
    from tests.simulation.relay.network import Network


PLAN_SECONDS: Final = 2.0
"""Seconds between two looks at the plan while it is short of peers (the kernel's manager acts at once)."""
PER_GROUP: Final = 0
AT_ONCE: Final = 8
HANDSHAKE_TRIPS: Final = 4
"""Round trips from the dial to the first relay RPC: TCP, noise, muxer, identify with the relay stream."""


def topic_of(shard: int) -> str:
    """The pubsub topic of a shard."""
    return f"/waku/2/rs/42/{shard}"


class SimulatedNode:
    """A relay node. Subclasses misbehave by overriding `on_message`, `forward` or `heartbeat`."""

    honest = True

    def __init__(self, network: Network, index: int, shards: tuple[int, ...], params: RelayParams) -> None:
        self.network = network
        self.index = index
        self.peer_id = f"16Uiu2HAm{index:08d}"
        self.ip = f"{10 + (index >> 22)}.{index >> 14 & 0xFF}.{index >> 6 & 0xFF}.{(index & 0x3F) << 2}"
        self.shards = shards
        self.params = params
        self.rng = Random(network.rng.getrandbits(64))
        self.place = network.links.place(network.rng)
        self.up = False
        self.life = 0
        """Counts the starts: what was meant for an earlier one does not arrive."""
        self.linked: dict[str, bool] = {}
        """Connected peers, and whether we dialled them."""
        self.linked_at: dict[str, float] = {}
        self.dialling: dict[str, KnownPeer] = {}
        self.known: dict[str, KnownPeer] = {}
        self.received_bytes = 0
        self.duplicates = 0
        self.uplink = Uplink(network.events, network.links.bandwidth, self._wanted, self._left)
        self.router = Router(params.gossip, params.score, self.rng)

    # -- life -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start with an empty router, and find peers."""
        self.up = True
        self.life += 1
        self.router = Router(self.params.gossip, self.params.score, self.rng)
        events = self.network.events
        for shard in self.shards:
            self.router.subscribe(topic_of(shard), events.now)
        # Nodes start at any time: their heartbeats do not coincide.
        events.after(self.rng.random() * self.params.gossip.heartbeat_interval, self._beat, self.life)
        events.after(self.rng.random() * 0.5, self._plan, self.life)

    def stop(self) -> None:
        """Go without a word, as after kill -9."""
        self.up = False
        self.uplink.clear()
        self.dialling.clear()
        for peer_id in list(self.linked):
            self.network.disconnect(self, self.network.node(peer_id))

    def _beat(self, life: int) -> None:
        if life != self.life or not self.up:
            return
        self.heartbeat()
        self.network.events.after(self.params.gossip.heartbeat_interval, self._beat, life)

    def heartbeat(self) -> None:
        """Run the router's heartbeat."""
        self.router.heartbeat(self.network.events.now)
        self.flush()

    # -- peers ------------------------------------------------------------------------------------------

    def _plan(self, life: int) -> None:
        """Dial as the kernel's peer manager would. Discovery is a draw of some nodes that are up."""
        if life != self.life or not self.up:
            return
        now = self.network.events.now
        for known in self.network.discover(self):
            self.known.setdefault(known.peer_id, known)
        mesh = {peer for shard in self.shards for peer in self.router.mesh_peers(topic_of(shard))}
        connected = [
            Connected(
                peer_id,
                outbound,
                self.network.node(peer_id).ip,
                now - self.linked_at[peer_id],
                relay=True,
                shards=frozenset(self.network.node(peer_id).shards),
                in_mesh=peer_id in mesh,
            )
            for peer_id, outbound in self.linked.items()
        ]
        done = plan(
            self.known.values(),
            connected,
            PeerNeeds(42, frozenset(self.shards), frozenset()),
            self.network.targets,
            now=now,
            dialling=self.dialling,
            at_once=AT_ONCE,
            per_group=PER_GROUP,
            online=True,
            rng=self.rng,
        )
        for known in done.dial:
            self._dial(known)
        for peer_id, _ in done.evict:
            self.network.disconnect(self, self.network.node(peer_id))
        wait = PLAN_SECONDS if done.short or self.dialling else 5 * PLAN_SECONDS
        self.network.events.after(wait, self._plan, life)

    def _dial(self, known: KnownPeer) -> None:
        self.dialling[known.peer_id] = known
        other = self.network.node(known.peer_id)
        trip = 2 * self.network.links.latency(self.place, other.place)
        self.network.events.after(HANDSHAKE_TRIPS * trip, self._dialled, known, self.life)

    def _dialled(self, known: KnownPeer, life: int) -> None:
        if life != self.life or self.dialling.pop(known.peer_id, None) is None:
            return
        if not self.network.connect(self, self.network.node(known.peer_id)):
            self.known.pop(known.peer_id, None)  # discovery may find it again

    def linked_to(self, other: SimulatedNode, *, outbound: bool) -> None:
        """A connection is there: the router learns of the peer and greets it."""
        now = self.network.events.now
        self.linked[other.peer_id] = outbound
        self.linked_at[other.peer_id] = now
        self.router.add_peer(other.peer_id, other.ip, now, outbound=outbound)
        self.router.describe_peer(other.peer_id, None, same_implementation=True, now=now)
        self._send_control(other.peer_id, self.router.hello(other.peer_id, now))
        self.flush()

    def unlinked(self, peer_id: str) -> None:
        """A connection is lost."""
        self.linked.pop(peer_id, None)
        self.router.remove_peer(peer_id, self.network.events.now)
        if self.up:
            self.flush()

    # -- sending ----------------------------------------------------------------------------------------

    def publish(self, shard: int, data: bytes) -> bytes:
        """Publish a message of ours; return its id."""
        message_id = sha256(data).digest()
        made = self.router.publish(topic_of(shard), message_id, data, self.network.events.now, force=False)
        for target in made.targets:
            self.forward(target, made.message, 1)
        return message_id

    def forward(self, target: str, message: CachedMessage, hops: int) -> None:
        """Send a message to a peer."""
        size = wire_size(message_rpc_size(message.topic, len(message.data)) + 2)
        self.uplink.send(target, Frame(message, hops, size))

    def flush(self) -> None:
        """Send what the router has to say, and leave peers that it gave up."""
        for peer_id, outgoing in self.router.take_pending().items():
            self._send_control(peer_id, outgoing)
            for message in outgoing.messages:  # asked for with IWANT
                self.forward(peer_id, message, self.network.hops(message.message_id, self) + 1)
        self.router.take_changed()
        for peer_id in self.router.take_bad_peers():
            self.network.disconnect(self, self.network.node(peer_id))

    def _send_control(self, peer_id: str, outgoing: OutgoingRpc) -> None:
        limit = self.params.max_rpc_size
        for body in encode_subscriptions(outgoing.subscriptions, limit) + encode_control(
            outgoing.control, limit
        ):
            self.uplink.send(peer_id, Frame(body, 0, wire_size(len(body))))

    def _wanted(self, to: str, frame: Frame) -> bool:
        peer = self.router.peer(to)
        if peer is None:
            return False
        return isinstance(frame.content, bytes) or peer.wants(frame.content.message_id)

    def _left(self, to: str, frame: Frame) -> None:
        self.network.carry(self, to, frame)

    # -- receiving --------------------------------------------------------------------------------------

    def receive(self, sender: str, frame: Frame) -> None:
        """Take what arrived from a connected peer."""
        peer = self.router.peer(sender)
        if peer is None or peer.graylisted:
            return
        self.received_bytes += frame.size
        if isinstance(frame.content, bytes):
            self.on_control(peer, frame.content)
        else:
            self.on_message(peer, frame.content, frame.hops)
        self.flush()

    def on_control(self, peer: Peer, frame: bytes) -> None:
        """Handle a control RPC, decoded as from the wire."""
        start = 1
        while frame[start - 1] & 0x80:  # the length prefix
            start += 1
        rpc = decode_rpc(frame, start)
        now = self.network.events.now
        if rpc.subscriptions:
            self.router.on_subscriptions(peer, rpc.subscriptions, now)
        if rpc.control is not None:
            self.router.on_control(peer, rpc.control, now)

    def on_message(self, peer: Peer, message: CachedMessage, hops: int) -> None:
        """Validate a message as the relay's intake does, and forward it."""
        now = self.network.events.now
        topic = self.router.topic_of(message.topic)
        if topic is None:
            return
        if not self.router.screen(topic, message.message_id):
            self.duplicates += 1
            return
        if not self.network.valid(message):
            self.router.reject(peer, topic, now)
            return
        cached, targets = self.router.accept(peer, topic, message.message_id, message.data, now)
        self.network.arrived(message.message_id, self, hops)
        for target in targets:
            self.forward(target, cached, hops + 1)
