"""What the peer manager queries from the rest of the node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence, Set

from kernel_proc.p2p.api import PeerIdText
from kernel_proc.peers.plan import PeerNeeds
from kernel_proc.protocols.metadata import MetadataProtocol
from kernel_proc.relay.service import RelayService
from kernel_proc.shards import Shards


class Needs:
    """The relay, metadata and shards as the manager needs them. `services` are the services of other nodes
    that this one may use."""

    def __init__(
        self,
        cluster: int,
        services: frozenset[str],
        relay: RelayService | None,
        metadata: MetadataProtocol,
        shards: Shards,
    ) -> None:
        self._cluster = cluster
        self._services = services
        self._relay = relay
        self._metadata = metadata
        self._shards = shards
        self.at_work: Callable[[], Set[PeerIdText]] = frozenset
        """Returns the peers with a request in progress; set by the services."""

    def wanted(self) -> PeerNeeds:
        """Return what the node needs now."""
        shards = frozenset(self.own_shards())
        return PeerNeeds(self._cluster, shards, self._services, relay=self._relay is not None)

    def own_shards(self) -> Sequence[int]:
        return self._shards.joined() if self._relay is not None else ()

    def shards_of(self, peer_id: PeerIdText) -> Collection[int]:
        """Return the shards that a connected peer reported in its metadata."""
        return self._metadata.peer_shards(peer_id) or ()

    def mesh(self) -> Set[PeerIdText]:
        """Return the peers in any of our meshes."""
        relay = self._relay
        if relay is None:
            return frozenset()
        return {peer for topic in relay.subscriptions() for peer in relay.mesh_peers(topic)}

    def score_of(self, peer_id: PeerIdText) -> float:
        """Return a peer's relay score, 0 if it has none."""
        parts = self._relay.score(peer_id) if self._relay is not None else None
        return 0.0 if parts is None else parts.total
