"""What the kernel says, handed to those whom it concerns. Implements `LinkListener`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ipc_schema.hello import NetworkInfo
from ipc_schema.kernel.methods import KernelHello
from ipc_schema.kernel.records import NodeHealth
from mapi_proc.health import EdgePeers, NodeFacts, edge_peers, node_facts, store_peers
from mapi_proc.kernel_link.tracker import Missed, StreamPlace
from mapi_proc.peer_watch import PeerWatch
from mapi_proc.receive.catchup import CatchUp
from mapi_proc.receive.partitions import Islands
from mapi_proc.receive.receiver import Receiver
from mapi_proc.send.loop import SendLoop
from mapi_proc.shards import FollowedShards
from mapi_proc.status import StatusNotifier
from mapi_proc.subscriptions.filter_keeper import FilterKeeper

__all__ = ["Concerned", "KernelListener", "Worker"]

log = logging.getLogger(__name__)


class Worker(Protocol):
    """Who makes requests to the kernel by itself."""

    def set_online(self, online: bool) -> None:
        """Whether the kernel can be asked."""
        ...


@dataclass(frozen=True, slots=True)
class Concerned:
    """The parts that hear of what the kernel says. `filters`: of an edge node."""

    receiver: Receiver
    shards: FollowedShards
    status: StatusNotifier
    catchup: CatchUp
    islands: Islands
    sends: SendLoop
    peers: PeerWatch
    filters: FilterKeeper | None


class KernelListener:
    """Passes on what the kernel says. `network(info)`: the kernel's network; raises IpcError to refuse the
    kernel. `workers`: the parts that work only while the kernel is there."""

    def __init__(
        self,
        network: Callable[[NetworkInfo], None],
        parts: Concerned,
        workers: Sequence[Worker],
        wanted: Callable[[], set[int]],
        now_ns: Callable[[], int],
    ) -> None:
        """`wanted()`: the shards that apps need."""
        self._network = network
        self.message = parts.receiver.message  # once per message: no call more than needed
        self._shards = parts.shards
        self._status = parts.status
        self._catchup = parts.catchup
        self._islands = parts.islands
        self._sends = parts.sends
        self._peers = parts.peers
        self._workers = workers
        self._filters = parts.filters
        self._wanted = wanted
        self._now_ns = now_ns
        self._up = False
        self._health: NodeHealth | None = None

    def kernel_up(self, hello: KernelHello) -> None:
        """The kernel's hello; raises IpcError to refuse it."""
        self._network(hello.network)
        log.info("kernel is up: %s", hello.server)
        self._up, self._health = True, None
        self._status.update(NodeFacts(kernel_up=True, edge=self._edge()))
        if self._filters is not None:
            self._filters.kernel_up()
        self._set_online(True)

    def kernel_down(self, reason: str) -> None:
        """The kernel does not answer."""
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
        """What the kernel reports of itself."""
        self._peers.look()
        self._health = health
        before = self._status.facts
        mesh = {shard.shard: shard.mesh_peers for shard in health.shards}
        if self._filters is not None:
            self._filters.health(health)
        else:
            now, stores = self._now_ns(), store_peers(health)
            connected = {shard.shard: shard.connected_peers for shard in health.shards}
            for shard, missed in self._islands.update(now, stores, mesh, self._wanted(), connected):
                self.missed(shard, missed)
        facts = node_facts(health, kernel_up=self._up, reason=before.kernel_reason, edge=self._edge())
        self._status.update(facts)
        if facts.relay_peers > before.relay_peers or any(
            peers and not (before.mesh_peers or {}).get(shard) for shard, peers in mesh.items()
        ):
            self._sends.wake()

    def edge_changed(self) -> None:
        """Other peers push to an edge node than before."""
        self._status.update(replace(self._status.facts, edge=self._edge()))

    def _edge(self) -> EdgePeers | None:
        if self._filters is None:
            return None
        return edge_peers(self._health, self._filters.pushing(self._wanted()), self._peers.pushers)

    def missed(self, shard: int, missed: Missed) -> None:
        """Messages of this time may be missing: stores are asked, as the policy wants."""
        self._catchup.add(shard, missed)

    def position(self, shard: int, position: StreamPlace) -> None:
        """The stream's position moved without a message; it is read again when it is stored."""
        if self._filters is not None:
            self._filters.leased(shard, position.instance, position.epoch)
        self._shards.moved(shard)
