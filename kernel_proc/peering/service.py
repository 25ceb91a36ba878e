"""The peering of a node: create its parts, wire and run them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from random import Random
from typing import Final

import trio

from ipc_schema.config.addresses import can_dial
from ipc_schema.config.kernel import KernelConfig
from kernel_proc.discovery.discv5.endpoint import UdpEndpoint
from kernel_proc.discovery.discv5.engine import NodeCallbacks
from kernel_proc.discovery.discv5.service import Discv5Service
from kernel_proc.discovery.discv5.wanted import waku_filter
from kernel_proc.discovery.dns_lists import DnsLists
from kernel_proc.discovery.dns_resolver import DnsTxtResolver
from kernel_proc.discovery.dns_tree import TreeError
from kernel_proc.discovery.enr import Enr
from kernel_proc.metrics import Registry, Sample
from kernel_proc.nat.ports import mappable
from kernel_proc.nat.service import PortMapper, finders
from kernel_proc.p2p.api import PeerIdText
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.peering.exchange import PeerAsking
from kernel_proc.peering.own_record import OwnRecord
from kernel_proc.peering.pace import WalkPace
from kernel_proc.peering.settings import (
    PeeringError,
    check_announced,
    node_records,
    operators_peers,
)
from kernel_proc.peering.sources import PeerSources
from kernel_proc.peers.clock import PeerClock
from kernel_proc.peers.connected_peers import PeerBook
from kernel_proc.peers.known import PeerOrigin
from kernel_proc.peers.manager import PeerManager
from kernel_proc.peers.needs import Needs
from kernel_proc.peers.plan import Targets
from kernel_proc.peers.recent_links import RecentLinks
from kernel_proc.peers.settings import ManagerSettings
from kernel_proc.peers.store import PeerStore
from kernel_proc.protocols.peer_exchange import PeerExchangeClient
from kernel_proc.reachability.autonat import AutonatClient
from kernel_proc.reachability.autonat_server import AutonatServer
from kernel_proc.reachability.circuit import CircuitClient
from kernel_proc.reachability.verdict import Reachability
from kernel_proc.relay.service import RelayService

STORE_FILE: Final = "peers.json"
LINKS_FILE: Final = "links.json"
LOOK: Final = 1.0
"""Seconds between checks whether discv5 should run."""
SEED_PERIOD: Final = 15.0
"""Seconds between offers of the store's nodes to a discv5 that gets no responses."""


class Peering:
    """Create it after the host, to which it adds itself; call `bound` once the listeners are up, then
    `run`."""

    def __init__(
        self,
        config: KernelConfig,
        key: NodeKey,
        host: Libp2pHost,
        relay: RelayService | None,
        needs: Needs,
        book: PeerBook,
        registry: Registry,
        rng: Random,
    ) -> None:
        """Raise PeeringError, or OSError (the data directory)."""
        discovery, network = config.discovery, config.network
        self._config = discovery
        self.name_servers = discovery.name_servers
        """Empty: those of the system."""
        self._host = host
        self._needs = needs
        check_announced(discovery.external_addresses)
        self.own = OwnRecord(config, key, host, self._needs.own_shards)
        self._entries = node_records("entry-node", discovery.entry_records)
        boot = node_records("discv5-bootstrap-node", discovery.discv5_boot_nodes)
        self.boot_nodes: tuple[Enr, ...] = tuple(dict.fromkeys((*boot, *self._entries)))
        loopback = ipaddress.ip_address(config.listen_address).is_loopback
        limit = 0 if loopback else config.peers.ip_colocation_limit
        self.store = PeerStore(
            discovery.store_capacity,
            per_group=2 * limit,
            rng=rng,
            keep=lambda peer_id: host.is_connected(peer_id) or self.manager.is_configured(peer_id),
            own_id=key.peer_id,
        )
        self._relay = relay
        keep = Path(config.data_dir) if discovery.persistent else None
        clock = PeerClock()
        self._links = RecentLinks(keep / LINKS_FILE if keep else None, clock)
        self.manager = PeerManager(
            host,
            self.store,
            ManagerSettings(
                targets=Targets.of(config.peers.max_connections, discovery.relay_connections),
                per_group=limit,
                loopback=loopback,
                usable=can_dial,
                protected=operators_peers(config),
                path=keep / STORE_FILE if keep else None,
            ),
            self._needs,
            registry,
            rng,
            found_origin=book.set_origin,
            clock=clock,
        )
        self._wanted = waku_filter(
            network.cluster,
            self._needs.own_shards,
            bootstrap=self.boot_nodes,
            shard_count=network.shard_count,
        )
        self.sources = PeerSources(network, host, self.manager, registry)
        self.discv5 = self.sources.discv5 = Discv5Service(
            self.own.enr,
            listen=[(host, discovery.discv5_port) for host in config.listen_hosts],
            bootstrap=self.boot_nodes,
            callbacks=NodeCallbacks(self.sources.found, self._wanted, self.own.seen_at),
            random=rng,
        )
        try:
            self.dns = DnsLists(
                discovery.dns_trees,
                lambda: DnsTxtResolver(discovery.name_servers),
                self.sources.listed,
                rng,
            )
        except TreeError as error:
            raise PeeringError(f"dns-discovery-url: {error}") from error
        self.port_mapper = PortMapper(
            finders(discovery.port_mapping, rng),
            lambda: mappable(host.reachable_addresses(), ((one.host, one.port) for one in self.discv5.bound)),
            lambda ip, ports: self.own.mapped(ip, ports, self.discv5.bound),
            registry,
        )
        self.autonat = AutonatClient(host, self.own.addresses.dialable, registry, rng)
        self.circuits = CircuitClient(
            host,
            lambda: discovery.relay_client and self.autonat.reachability is Reachability.PRIVATE,
            self.own.relayed,
            registry,
        )
        AutonatServer(host, host.probe, registry)
        self._asking: PeerAsking | None = None
        self._nursery: trio.Nursery | None = None
        self._discv5_ended = trio.Event()
        host.add_listener(self.manager)
        host.add_listener(self.own)
        host.add_listener(self._links)
        registry.add_source(self._samples)

    def attach_services(self, exchange: PeerExchangeClient, at_work: Callable[[], Set[PeerIdText]]) -> None:
        """Set the peer exchange client, and the peers that must not be disconnected (`at_work`), beside the
        relays that others reach us through."""
        self._needs.at_work = lambda: at_work() | frozenset(self.circuits.relays)
        if self._config.peer_exchange:
            self._asking = PeerAsking(exchange, lambda: self.manager.short, lambda: self.store.arrived)

    def bound(self) -> None:
        """Announce the listeners' addresses, and learn the operator's peers."""
        self.own.bound()
        self.manager.restore()
        if self._relay is not None:
            self._links.restore(self._relay.was_linked)
        for record in self._entries:
            self.sources.learn(record, PeerOrigin.STATIC)
        if self._config.discv5:
            for record in self.boot_nodes:
                self.sources.learn(record, PeerOrigin.DISCV5)

    def shards_changed(self) -> None:
        """Re-evaluate after joining or leaving shards."""
        if self.own.shards_changed():
            self.sources.look_again(self._wanted)
            self.manager.wake()

    # --- main loop ---

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Discover peers until cancelled; started once the UDP port is bound. Raise OSError."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._config.discv5:
                await nursery.start(self._run_discv5)
            task_status.started()
            nursery.start_soon(self.manager.run, name="peer manager")
            nursery.start_soon(self.port_mapper.run, name="port mapping")
            nursery.start_soon(self.autonat.run, name="AutoNAT")
            if self._config.relay_client:
                nursery.start_soon(self.circuits.run, name="circuit relays")
            nursery.start_soon(self._links.run, name="recent links")
            if self.dns.lists:
                nursery.start_soon(self.dns.run, name="lists in the DNS")
            if self._asking is not None:
                nursery.start_soon(self._asking.run, name="peer exchange")
            await self._keep_pace()

    async def _keep_pace(self) -> None:
        """Adapt discv5's pace to the demand for peers."""
        pace, set_pause, seeded = WalkPace(trio.current_time()), 0.0, float("-inf")
        while True:
            now = trio.current_time()
            known = self.discv5.running and any(node.verified for node in self.discv5.nodes())
            if self.discv5.running and not known and now - seeded > SEED_PERIOD:
                seeded = now
                self.sources.seed()
            pause = pace.pause(
                now,
                arrived=self.store.arrived,
                connected=bool(self._host.connections()),
                short=self.manager.short,
            )
            if pause != set_pause:
                set_pause = pause
                self.discv5.set_walk_pause(pause)
            await trio.sleep(LOOK)

    # --- discv5 control ---

    async def start_discv5(self) -> bool:
        """Start discv5. Return False if it is already running. Raise OSError."""
        if self.discv5.running or self._nursery is None:
            return False
        await self._nursery.start(self._run_discv5)
        self.port_mapper.look()
        return True

    async def _run_discv5(self, task_status: trio.TaskStatus[tuple[UdpEndpoint, ...]]) -> None:
        self._discv5_ended = trio.Event()
        try:
            await self.discv5.run(task_status)
        finally:
            self._discv5_ended.set()

    async def stop_discv5(self) -> bool:
        """Stop discv5 and free its UDP port. Return False if it was not running."""
        if not self.discv5.running:
            await trio.lowlevel.checkpoint()
            return False
        self.discv5.stop()
        await self._discv5_ended.wait()
        self.own.no_udp()
        self.port_mapper.look()
        return True

    def set_boot_nodes(self, records: Sequence[Enr], *, add: bool = False) -> None:
        """Replace the boot nodes of discv5, or add to them."""
        self.boot_nodes = tuple(dict.fromkeys((*(self.boot_nodes if add else ()), *records)))
        self.discv5.set_bootstrap(self.boot_nodes)
        if self.discv5.running:
            for record in records:
                self.sources.learn(record, PeerOrigin.DISCV5)

    # --- inspection ---

    def reachability(self) -> dict[str, object]:
        """Return how the node can be reached from outside, for people."""
        return {
            "autonat": str(self.autonat.reachability),
            "announced": list(self.own.addresses.announced()),
            "relays": list(self.circuits.relays),
            "mapping": self.port_mapper.describe(),
        }

    @property
    def asks_for_peers(self) -> bool:
        """Whether peers are requested by peer exchange while there are too few."""
        return self._asking is not None

    def _samples(self) -> list[Sample]:
        found: list[Sample] = []
        if self.discv5.running:
            values = self.discv5.counters() | self.discv5.gauges()
            found += [(f"discv5_{name}", {}, value) for name, value in values.items()]
            # nim-eth's name: without a state all nodes of the table, `seen` those that have answered.
            found.append(("routing_table_nodes", {}, values["nodes"]))
            found.append(("routing_table_nodes", {"state": "seen"}, values["nodes_verified"]))
        found.append(("dnsdisc_errors", {"type": "tree_sync_failure"}, self.dns.failures))
        found.append(("dnsdisc_errors", {"type": "peer_info_failure"}, self.dns.bad_records))
        found.append(("discovery_record_seq", {}, self.own.enr.record.seq if self.own.is_bound else 0))
        return found
