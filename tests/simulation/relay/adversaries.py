"""Nodes that misbehave, one fault each."""

from __future__ import annotations

from typing import Final

from kernel_proc.relay.cache import CachedMessage
from kernel_proc.relay.params import RelayParams
from kernel_proc.relay.rpc import Control
from kernel_proc.relay.rpc_reader import decode_rpc
from kernel_proc.relay.rpc_writer import encode_control
from kernel_proc.relay.state import Peer
from tests.simulation.relay.links import Frame, wire_size
from tests.simulation.relay.network import INVALID, Network
from tests.simulation.relay.node import SimulatedNode, topic_of


class Mute(SimulatedNode):
    """Is in meshes, and forwards and offers nothing."""

    honest = False

    def forward(self, target: str, message: CachedMessage, hops: int) -> None:
        """Send nothing."""

    def flush(self) -> None:
        """Send no IHAVE and no IDONTWANT, only what concerns the mesh."""
        for outgoing in self.router._s.pending.values():
            outgoing.control.ihave = []
            outgoing.control.idontwant = []
            outgoing.messages = []
        super().flush()


class Censor(SimulatedNode):
    """Forwards everything but what the first honest node of its shard publishes."""

    honest = False

    def forward(self, target: str, message: CachedMessage, hops: int) -> None:
        """Send what is not of the victim."""
        sent = self.network.sent.get(message.message_id)
        if sent is None or sent.publisher != self.shards[0]:
            super().forward(target, message, hops)


class Spammer(SimulatedNode):
    """Sends an invalid message to each of its peers with every heartbeat."""

    honest = False

    def heartbeat(self) -> None:
        """Behave, then send."""
        super().heartbeat()
        for peer_id in list(self.linked):
            data = INVALID + self.rng.randbytes(self.network.settings.size - 1)
            topic = topic_of(self.shards[0])
            message = CachedMessage(topic.encode(), topic, data[:32], data, 0)
            self.forward(peer_id, message, 1)


class IwantFlooder(SimulatedNode):
    """Asks every peer for all that it offers, again with every heartbeat."""

    honest = False
    REMEMBERED: Final = 2_000

    def __init__(self, network: Network, index: int, shards: tuple[int, ...], params: RelayParams) -> None:
        super().__init__(network, index, shards, params)
        self._offered: dict[str, list[bytes]] = {}

    def on_control(self, peer: Peer, frame: bytes) -> None:
        """Keep what is offered."""
        super().on_control(peer, frame)
        start = next(at for at, byte in enumerate(frame) if not byte & 0x80) + 1
        control = decode_rpc(frame, start).control
        offered = self._offered.setdefault(peer.peer_id, [])
        for ihave in control.ihave if control else ():
            offered.extend(ihave.message_ids)
        del offered[: -self.REMEMBERED]

    def heartbeat(self) -> None:
        """Behave, then ask for everything ten times over."""
        super().heartbeat()
        for peer_id in list(self.linked):
            control = Control()
            control.iwant = self._offered.get(peer_id, []) * 10
            for body in encode_control(control, self.params.max_rpc_size):
                self.uplink.send(peer_id, Frame(body, 0, wire_size(len(body))))


class Eclipser(Mute):
    """Is mute, and connected to the first honest node of its shard before anything else."""

    def start(self) -> None:
        """Dial the victim, then go on as the others."""
        super().start()
        self._dial(self.network._known[self.shards[0]])
