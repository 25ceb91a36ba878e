"""Dispatch the kernel's reports to the parts that need them. Implements `LinkListener`."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ipc_schema.hello import NetworkInfo
from ipc_schema.kernel.methods import KernelHello
from ipc_schema.kernel.records import NodeHealth
from mapi_proc.health import EdgePeers, NodeFacts, edge_peers, node_facts
from mapi_proc.kernel_link.tracker import Missed, StreamPlace
from mapi_proc.peer_watch import PeerWatch
from mapi_proc.peers import FILTER, STORE, ServicePeers
from mapi_proc.receive.catchup import CatchUp
from mapi_proc.receive.partitions import Partitions
from mapi_proc.receive.receiver import Receiver
from mapi_proc.shards import FollowedShards
from mapi_proc.status import StatusNotifier
from mapi_proc.subscriptions.filter_keeper import FilterKeeper

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class KernelListener:
    """Dispatches the kernel's reports to these parts."""

    network: Callable[[NetworkInfo], None]
    """Takes the kernel's network, and raises IpcError to refuse the kernel."""
    receiver: Receiver
    shards: FollowedShards
    status: StatusNotifier
    catchup: CatchUp
    partitions: Partitions
    peers: ServicePeers
    peer_watch: PeerWatch
    filters: FilterKeeper | None
    """On an edge node only."""
    set_online: Sequence[Callable[[bool], None]]
    """Of the parts that work only while the kernel is up."""
    wake: Sequence[Callable[[], None]]
    """Called when relay peers appear."""
    stores_away: Callable[[], Awaitable[Iterable[str]]]
    """Return the stores that the kernel was connected to of late and is not now."""
    wanted: Callable[[], set[int]]
    """Return the shards that apps need."""
    now_ns: Callable[[], int]

    def __post_init__(self) -> None:
        self.message = self.receiver.message  # once per message: no call more than needed
        self._up = False
        self._health: NodeHealth | None = None

    def kernel_up(self, hello: KernelHello) -> None:
        """Handle the kernel's hello; raise IpcError to refuse it."""
        self.network(hello.network)
        log.info("kernel is up: %s", hello.server)
        self._up, self._health = True, None
        self.status.update(NodeFacts(kernel_up=True, edge=self._edge()))
        if self.filters is not None:
            self.filters.kernel_up()
        for set_online in self.set_online:
            set_online(True)

    def kernel_down(self, reason: str) -> None:
        """Handle a kernel that does not answer."""
        log.warning("kernel is down: %s", reason)
        self._up = False
        for set_online in self.set_online:
            set_online(False)
        if self.filters is not None:
            self.filters.kernel_down()
        self.status.update(NodeFacts(kernel_up=False, kernel_reason=reason))

    def kernel_health(self, health: NodeHealth) -> None:
        """Handle the kernel's health report."""
        self.peer_watch.look()
        self._health = health
        before = self.status.health.facts
        mesh = {shard.shard: shard.mesh_peers for shard in health.shards}
        if self.filters is not None:
            self.filters.health(health)
        else:
            self._look_for_partitions(health)
        facts = node_facts(health, kernel_up=self._up, reason=before.kernel_reason, edge=self._edge())
        self.status.update(facts)
        if facts.relay_peers > before.relay_peers or any(
            peers and not (before.mesh_peers or {}).get(shard) for shard, peers in mesh.items()
        ):
            for wake in self.wake:
                wake()

    async def peers_appeared(self) -> None:
        """Handle a kernel that has come up, before its first list of peers is taken."""
        if self.filters is None:
            stores = await self.stores_away()
            self.partitions.remember(self.now_ns(), stores)

    def peers_changed(self) -> None:
        """Handle a new list of peers."""
        if self.filters is not None:
            self.filters.peers_changed()
        elif self._health is not None:
            self._look_for_partitions(self._health)

    def _look_for_partitions(self, health: NodeHealth) -> None:
        mesh = {shard.shard: shard.mesh_peers for shard in health.shards}
        connected = {shard.shard: shard.connected_peers for shard in health.shards}
        found = self.partitions.update(
            self.now_ns(), self.peers.serving(STORE), mesh, self.wanted(), connected
        )
        for shard, missed in found:
            self.missed(shard, missed)

    def edge_changed(self) -> None:
        """Handle a change in the peers that push to an edge node."""
        self.status.update(replace(self.status.health.facts, edge=self._edge()))

    def _edge(self) -> EdgePeers | None:
        if self.filters is None:
            return None
        return edge_peers(self._health, self.filters.pushing(self.wanted()), self.peers.count(FILTER))

    def missed(self, shard: int, missed: Missed) -> None:
        """Pass a gap to catch-up, which asks stores if the option `catch-up` says so."""
        self.catchup.add(shard, missed)

    def position(self, shard: int, position: StreamPlace) -> None:
        """Store a position that moved without a message; it is read when the batch is submitted."""
        if self.filters is not None:
            self.filters.leased(shard, position.instance, position.epoch)
        self.shards.moved(shard)
