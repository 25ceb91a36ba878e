"""Dispatch the kernel's reports to the parts that need them. Implements `LinkListener`."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ipc_schema.hello import NetworkInfo
from ipc_schema.kernel.methods import KernelHello
from ipc_schema.kernel.records import NodeHealth
from mapi_proc.health import EdgePeers, NodeFacts, edge_peers, node_facts
from mapi_proc.kernel_link.tracker import Missed, StreamPlace
from mapi_proc.peer_watch import PeerWatch
from mapi_proc.receive.catchup import CatchUp
from mapi_proc.receive.partitions import Partitions
from mapi_proc.receive.receiver import Receiver
from mapi_proc.shards import FollowedShards
from mapi_proc.status import StatusNotifier
from mapi_proc.subscriptions.filter_keeper import FilterKeeper

log = logging.getLogger(__name__)


class Worker(Protocol):
    """A part that makes requests to the kernel on its own."""

    def set_online(self, online: bool) -> None:
        """Set whether the kernel can be asked."""


@dataclass(frozen=True, slots=True)
class Concerned:
    """The parts that the kernel's reports go to. `wake`: called when relay peers appear.

    `stores_away()` returns the stores that the kernel was connected to of late and is not now. `filters`: on
    an edge node only.
    """

    receiver: Receiver
    shards: FollowedShards
    status: StatusNotifier
    catchup: CatchUp
    partitions: Partitions
    wake: Sequence[Callable[[], None]]
    peers: PeerWatch
    stores_away: Callable[[], Awaitable[Iterable[str]]]
    filters: FilterKeeper | None


class KernelListener:
    """Dispatches the kernel's reports.

    `network(info)` takes the kernel's network and raises IpcError to refuse the kernel. `workers` are the
    parts that work only while the kernel is up.
    """

    def __init__(
        self,
        network: Callable[[NetworkInfo], None],
        parts: Concerned,
        workers: Sequence[Worker],
        wanted: Callable[[], set[int]],
        now_ns: Callable[[], int],
    ) -> None:
        """`wanted()` returns the shards that apps need."""
        self._network = network
        self.message = parts.receiver.message  # once per message: no call more than needed
        self._shards = parts.shards
        self._status = parts.status
        self._catchup = parts.catchup
        self._partitions = parts.partitions
        self._wake = parts.wake
        self._peers = parts.peers
        self._stores_away = parts.stores_away
        self._workers = workers
        self._filters = parts.filters
        self._wanted = wanted
        self._now_ns = now_ns
        self._up = False
        self._health: NodeHealth | None = None

    def kernel_up(self, hello: KernelHello) -> None:
        """Handle the kernel's hello; raise IpcError to refuse it."""
        self._network(hello.network)
        log.info("kernel is up: %s", hello.server)
        self._up, self._health = True, None
        self._status.update(NodeFacts(kernel_up=True, edge=self._edge()))
        if self._filters is not None:
            self._filters.kernel_up()
        self._set_online(True)

    def kernel_down(self, reason: str) -> None:
        """Handle a kernel that does not answer."""
        log.warning("kernel is down: %s", reason)
        self._up = False
        self._set_online(False)
        if self._filters is not None:
            self._filters.kernel_down()
        self._status.update(NodeFacts(kernel_up=False, kernel_reason=reason))

    def _set_online(self, online: bool) -> None:
        for worker in self._workers:
            worker.set_online(online)

    def kernel_health(self, health: NodeHealth) -> None:
        """Handle the kernel's health report."""
        self._peers.look()
        self._health = health
        before = self._status.facts
        mesh = {shard.shard: shard.mesh_peers for shard in health.shards}
        if self._filters is not None:
            self._filters.health(health)
        else:
            self._look_for_partitions(health)
        facts = node_facts(health, kernel_up=self._up, reason=before.kernel_reason, edge=self._edge())
        self._status.update(facts)
        if facts.relay_peers > before.relay_peers or any(
            peers and not (before.mesh_peers or {}).get(shard) for shard, peers in mesh.items()
        ):
            for wake in self._wake:
                wake()

    async def peers_appeared(self) -> None:
        """Handle a kernel that has come up, before its first list of peers is taken."""
        if self._filters is None:
            stores = await self._stores_away()
            self._partitions.remember(self._now_ns(), stores)

    def peers_changed(self) -> None:
        """Handle a new list of peers."""
        if self._filters is not None:
            self._filters.peers_changed()
        elif self._health is not None:
            self._look_for_partitions(self._health)

    def _look_for_partitions(self, health: NodeHealth) -> None:
        mesh = {shard.shard: shard.mesh_peers for shard in health.shards}
        connected = {shard.shard: shard.connected_peers for shard in health.shards}
        found = self._partitions.update(self._now_ns(), self._peers.stores, mesh, self._wanted(), connected)
        for shard, missed in found:
            self.missed(shard, missed)

    def edge_changed(self) -> None:
        """Handle a change in the peers that push to an edge node."""
        self._status.update(replace(self._status.facts, edge=self._edge()))

    def _edge(self) -> EdgePeers | None:
        if self._filters is None:
            return None
        return edge_peers(self._health, self._filters.pushing(self._wanted()), self._peers.pushers)

    def missed(self, shard: int, missed: Missed) -> None:
        """Pass a gap to catch-up, which asks stores as its policy says."""
        self._catchup.add(shard, missed)

    def position(self, shard: int, position: StreamPlace) -> None:
        """Store a position that moved without a message; it is read when the batch is submitted."""
        if self._filters is not None:
            self._filters.leased(shard, position.instance, position.epoch)
        self._shards.moved(shard)
