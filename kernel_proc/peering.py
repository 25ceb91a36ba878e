"""How the node finds its peers and keeps them: the peer manager and all that feeds it, wired to each other.

    discv5, DNS lists, peer exchange, entry nodes  →  peer store  →  peer manager  →  dials
    what is bound, observed and mounted            →  our node record  →  discv5, identify

Sources work for a node that is short of peers and rest for one that has what it wants.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Collection, Iterable, Sequence, Set
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final, Protocol

import trio

from ipc_schema.config.discovery import NameServer
from ipc_schema.config.kernel import KernelConfig
from kernel_proc.discovery.discv5 import Discv5Service, Endpoint, waku_filter
from kernel_proc.discovery.dns_lists import DnsLists
from kernel_proc.discovery.dns_resolver import DnsTxtResolver
from kernel_proc.discovery.dns_tree import TreeError
from kernel_proc.discovery.enr import Enr, EnrError
from kernel_proc.discovery.enr_identity import Identity
from kernel_proc.discovery.enr_local import LocalEnr
from kernel_proc.discovery.enr_values import MAX_SHARDS, Capability
from kernel_proc.logs import fields
from kernel_proc.metrics import Registry, Sample
from kernel_proc.p2p import addresses
from kernel_proc.p2p.api import BadAddress, PeerConnection, PeerIdentity, PeerIdText
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.peers.book import PeerBook
from kernel_proc.peers.manager import ManagerSettings, PeerManager
from kernel_proc.peers.own_addresses import OwnAddresses
from kernel_proc.peers.plan import SERVICES, Targets, Wanted
from kernel_proc.peers.store import Origin, PeerStore, group_of_address, peer_id_in
from kernel_proc.protocols.metadata import MetadataProtocol
from kernel_proc.protocols.requests import AllFailed
from kernel_proc.relay.service import RelayService
from kernel_proc.shards import Shards

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that py-libp2p brings hide trio's own name

__all__ = ["ExchangeClient", "Peering", "PeeringError"]

log = logging.getLogger(__name__)

STORE_FILE: Final = "peers.json"
RECORD_FILE: Final = "enr"
WALK_ALONE: Final = 1.0
"""Seconds between random walks of discv5 while nobody is connected; while some are, but more are wanted
(nwaku); when all is well."""
WALK_SHORT: Final = 5.0
WALK_LONG: Final = 60.0
WALKS_IN_VAIN: Final = 15.0
"""Seconds without a new peer after which the pause doubles."""
LOOK: Final = 1.0
"""Seconds between two looks at whether the sources should work."""
SEEDS: Final = 48
SEED_PERIOD: Final = 15.0
EXCHANGE_FIRST: Final = 1.0
EXCHANGE_PERIOD: Final = 30.0
EXCHANGE_COUNT: Final = 30
EXCHANGE_SECONDS: Final = 12.0
MAX_EXCHANGED: Final = 256
"""Records to choose from in an answer of peer exchange."""
PROVEN: Final = 3600.0
"""Seconds for which a connection proves that a peer can be reached."""


class PeeringError(ValueError):
    """The configuration names a node record or a list that is none."""


class ExchangeClient(Protocol):
    """What the peering asks of peer exchange."""

    async def request(self, count: int, *, peer: str | None = None, deadline: float) -> object:
        """Ask a peer for records; they come by `Peering.exchanged`. Raises AllFailed."""
        ...


class Peering:
    """Made after the host, to which it adds itself; `bound` once the listeners are there, then `run`."""

    def __init__(
        self,
        config: KernelConfig,
        key: NodeKey,
        host: Libp2pHost,
        relay: RelayService | None,
        metadata: MetadataProtocol,
        shards: Shards,
        book: PeerBook,
        registry: Registry,
        rng: Random,
    ) -> None:
        """Raises PeeringError, OSError (the data directory)."""
        discovery, directory = config.discovery, Path(config.data_dir)
        self._config = discovery
        self._network = config.network
        self._host = host
        self._relay = relay
        self._metadata = metadata
        self._shards = shards
        self._loopback = ipaddress.ip_address(config.listen_address).is_loopback
        self._services = _services_wanted(config)
        self.own = OwnAddresses(
            external=discovery.external_addresses,
            only_external=discovery.only_external,
            external_ip=discovery.external_ip,
            domain=discovery.domain,
            observing=discovery.observed_address,
        )
        self.enr = LocalEnr(
            Identity(key.secret_bytes()), directory / RECORD_FILE, now_ms=time.time_ns() // 1_000_000
        )
        self._entries = _records("entry-node", discovery.entry_records)
        boot = _records("discv5-bootstrap-node", discovery.discv5_boot_nodes)
        self.boot_nodes: tuple[Enr, ...] = tuple(dict.fromkeys((*boot, *self._entries)))
        limit = 0 if self._loopback else config.ip_colocation_limit
        named = (*config.entry_nodes, *config.static_nodes, *config.services.nodes)
        protected = frozenset(filter(None, map(peer_id_in, named)))
        self.store = PeerStore(
            discovery.store_capacity,
            per_group=2 * limit,
            rng=rng,
            keep=lambda peer_id: host.is_connected(peer_id) or peer_id in protected,
            own_id=key.peer_id,
        )
        self.manager = PeerManager(
            host,
            self.store,
            ManagerSettings(
                targets=Targets.of(config.max_connections, discovery.relay_connections),
                per_group=limit,
                loopback=self._loopback,
                protected=protected,
                path=directory / STORE_FILE if discovery.persistent else None,
            ),
            self,
            registry,
            rng,
            usable=_usable,
            found_origin=book.set_origin,
        )
        self.discv5 = Discv5Service(
            self.enr,
            listen=[(config.listen_address, discovery.discv5_port)],
            bootstrap=self.boot_nodes,
            found=self._found,
            wanted=waku_filter(
                config.network.cluster,
                self._own_shards,
                bootstrap=self.boot_nodes,
                shard_count=config.network.shard_count,
            ),
            external=self._seen_at,
            random=rng,
        )
        try:
            self.dns = DnsLists(
                discovery.dns_trees,
                lambda: DnsTxtResolver(discovery.name_servers),
                self._listed,
                rng,
            )
        except TreeError as error:
            raise PeeringError(f"dns-discovery-url: {error}") from error
        self._exchange: ExchangeClient | None = None
        self._nursery: trio.Nursery | None = None
        self._discv5_ended = trio.Event()
        self._is_bound = False
        self._announced_shards: tuple[int, ...] | None = None
        self._unusable = registry.counter("discovery_records_refused")
        capabilities = _capabilities(config)
        self.enr.set_capabilities(capabilities)
        self._walk_pause = 0.0
        host.add_listener(self.manager)
        host.add_listener(self)
        registry.add_source(self._samples)

    def attach_exchange(self, client: ExchangeClient) -> None:
        """Ask peers for peers by this client."""
        self._exchange = client

    # --- what the manager asks ---

    def wanted(self) -> Wanted:
        """What the node needs now."""
        return Wanted(
            self._network.cluster,
            frozenset(self._own_shards()),
            self._services,
            relay=self._relay is not None,
        )

    def shards_of(self, peer_id: PeerIdText) -> Collection[int]:
        """By metadata."""
        return self._metadata.peer_shards(peer_id) or ()

    def mesh(self) -> Set[PeerIdText]:
        """Everybody in a mesh of ours."""
        relay = self._relay
        if relay is None:
            return frozenset()
        return {peer for topic in relay.subscriptions() for peer in relay.mesh_peers(topic)}

    def score_of(self, peer_id: PeerIdText) -> float:
        """The relay's score."""
        parts = self._relay.score(peer_id) if self._relay is not None else None
        return 0.0 if parts is None else parts.total

    def _own_shards(self) -> Sequence[int]:
        return self._shards.joined() if self._relay is not None else ()

    # --- our own record ---

    def bound(self) -> None:
        """The listeners are there: say so, and learn whom the operator named."""
        self._is_bound = True
        self.own.bind(self._host.reachable_addresses())
        self._announce()
        self.shards_changed()
        self.manager.restore()
        for record in self._entries:
            self._learn(record, Origin.STATIC)
        if self._config.discv5:
            for record in self.boot_nodes:
                self._learn(record, Origin.DISCV5)

    def _announce(self) -> None:
        self._host.set_announced(self.own.announced())
        self.enr.set_addresses(self.own.for_record())

    def shards_changed(self) -> None:
        """The node may have joined or left shards."""
        shards = tuple(sorted(one for one in self._own_shards() if one < MAX_SHARDS))
        if not self._is_bound or shards == self._announced_shards:
            return
        self._announced_shards = shards
        self.enr.set_shards(self._network.cluster, shards)
        self.manager.wake()

    def _seen_at(self, endpoint: Endpoint) -> None:
        """discv5 knows at which address others see us."""
        if self.own.agreed(endpoint.host):
            log.info("other nodes see us at another address", extra=fields(ip=endpoint.host))
            self._announce()

    # --- host events ---

    def peer_connected(self, connection: PeerConnection) -> None:
        """The manager's concern."""

    def peer_identified(self, identity: PeerIdentity) -> None:
        """The peer said where it sees us."""
        if identity.observed_address is None:
            return
        connection = next((c for c in self._host.connections() if c.peer_id == identity.peer_id), None)
        if connection is not None and self.own.observe(
            group_of_address(connection.address), identity.observed_address
        ):
            log.info("peers see us at another address", extra=fields(ip=",".join(self.own.observed)))
            self._announce()

    def peer_disconnected(self, peer_id: PeerIdText, reason: str) -> None:
        """The manager's concern."""

    # --- what the sources give ---

    def _found(self, record: Enr) -> None:
        self.manager.sign_of_life()
        self._learn(record, Origin.DISCV5)

    def _learn(self, record: Enr, origin: Origin) -> bool:
        shards = record.shards_among(self._network.shard_count or MAX_SHARDS)
        return self.manager.learn(
            record.peer_id,
            record.addresses,
            origin,
            enr=record.raw,
            seq=max(1, record.seq),
            capabilities=int(record.capabilities or 0),
            cluster=None if shards is None else shards.cluster,
            shards=() if shards is None else shards.possible,
        )

    def learn_records(self, records: Iterable[Enr], origin: Origin) -> int:
        """Records from elsewhere: how many were of use. Those that speak discv5 enter its table too."""
        used = 0
        for record in records:
            used += record.capabilities is not None and self._learn(record, origin)
            self.discv5.add_record(record)
        return used

    def _listed(self, record: Enr) -> None:
        self.manager.sign_of_life()
        self.learn_records((record,), Origin.DNS)

    def exchanged(self, peer_id: PeerIdText, records: Sequence[bytes]) -> None:
        """Peer exchange gave these records, which nobody has looked at."""
        good = []
        for raw in records:
            try:
                good.append(Enr.from_bytes(raw))
            except EnrError as error:
                self._unusable.add()
                log.debug("record of peer exchange", extra=fields(peer=peer_id, reason=str(error)))
        used = self.learn_records(good, Origin.PEER_EXCHANGE)
        log.debug("peer exchange", extra=fields(peer=peer_id, records=len(records), used=used))

    def own_record(self) -> bytes | None:
        """Our record, if it says what we serve and where."""
        if not self._is_bound:
            return None
        record = self.enr.record
        return record.raw if record.capabilities and record.addresses else None

    def exchangeable(self) -> list[bytes]:
        """Records that we may give away: of peers of our cluster that have been reached of late."""
        since = time.time() - PROVEN
        found = {
            peer.peer_id: peer.enr
            for peer in self.store
            if peer.enr
            and peer.cluster in (None, self._network.cluster)
            and (peer.last_success >= since or self._host.is_connected(peer.peer_id))
        }
        for node in self.discv5.nodes():
            if len(found) >= MAX_EXCHANGED:
                break
            record = node.record
            shards = record.shards_among(self._network.shard_count or MAX_SHARDS)
            if node.verified and record.capabilities and shards and shards.cluster == self._network.cluster:
                found[record.peer_id] = record.raw
        return list(found.values())[:MAX_EXCHANGED]

    # --- running ---

    async def run(self, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Find peers until cancelled; started when the UDP port is bound. Raises OSError."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._config.discv5:
                await nursery.start(self._run_discv5)
            task_status.started()
            nursery.start_soon(self.manager.run, name="peer manager")
            if self.dns.lists:
                nursery.start_soon(self.dns.run, name="lists in the DNS")
            if self._exchange is not None and self._config.peer_exchange:
                nursery.start_soon(self._ask_for_peers, self._exchange, name="peer exchange")
            await self._pace()

    def _seed(self) -> None:
        """Offer discv5 the nodes of the store, those last reached first: its table begins empty, and the boot
        nodes of yesterday may be gone."""
        known = [peer for peer in self.store if peer.enr]
        known.sort(key=lambda peer: (-peer.last_success, peer.failures))
        for peer in known[:SEEDS]:
            try:
                self.discv5.add_record(Enr.from_bytes(peer.enr))
            except EnrError as error:  # the file was edited
                log.debug("record in the peer store", extra=fields(peer=peer.peer_id, reason=str(error)))

    async def start_discv5(self) -> bool:
        """Start discv5; False: it runs already. Raises OSError."""
        if self.discv5.running or self._nursery is None:
            return False
        await self._nursery.start(self._run_discv5)
        return True

    async def _run_discv5(self, task_status: TaskStatus[tuple[Endpoint, ...]]) -> None:
        self._discv5_ended = trio.Event()
        try:
            await self.discv5.run(task_status)
        finally:
            self._discv5_ended.set()

    async def stop_discv5(self) -> bool:
        """Stop discv5; False: it did not run. Its UDP port is free afterwards."""
        if not self.discv5.running:
            await trio.lowlevel.checkpoint()
            return False
        self.discv5.stop()
        await self._discv5_ended.wait()
        self.enr.set_udp(udp4=None, udp6=None)
        return True

    def set_boot_nodes(self, records: Sequence[Enr], *, add: bool = False) -> None:
        """Enter discv5 by these nodes, in place of those before or beside them."""
        self.boot_nodes = tuple(dict.fromkeys((*(self.boot_nodes if add else ()), *records)))
        self.discv5.set_bootstrap(self.boot_nodes)
        if self.discv5.running:
            for record in records:
                self._learn(record, Origin.DISCV5)

    @property
    def name_servers(self) -> Sequence[NameServer]:
        """Those configured; none: those of the system."""
        return self._config.name_servers

    @property
    def asks_for_peers(self) -> bool:
        """Whether peers are asked for peers while there are too few."""
        return self._config.peer_exchange and self._exchange is not None

    async def _pace(self) -> None:
        """Let discv5 work as hard as peers are wanted."""
        seeded, arrived, news = float("-inf"), 0, trio.current_time()
        while True:
            if (
                self.discv5.running
                and not any(node.verified for node in self.discv5.nodes())
                and trio.current_time() - seeded > SEED_PERIOD
            ):
                seeded = trio.current_time()
                self._seed()
            now = trio.current_time()
            if self.store.arrived != arrived:
                arrived, news = self.store.arrived, now
            pause = WALK_LONG
            if not self._host.connections():
                pause = WALK_ALONE
            elif self.manager.short:
                # Who looks in vain looks less and less: a small network has no more than it has.
                pause = min(WALK_LONG, WALK_SHORT * 2.0 ** int((now - news) / WALKS_IN_VAIN))
            if pause != self._walk_pause:
                self._walk_pause = pause
                self.discv5.set_walk_pause(pause)
            await trio.sleep(LOOK)

    async def _ask_for_peers(self, client: ExchangeClient) -> None:
        await trio.sleep(EXCHANGE_FIRST)
        while True:
            pause = EXCHANGE_PERIOD
            if self.manager.short:
                try:
                    await client.request(EXCHANGE_COUNT, deadline=trio.current_time() + EXCHANGE_SECONDS)
                except AllFailed as error:
                    log.debug("no peers by peer exchange", extra=fields(reason=str(error)))
                    # Nobody to ask yet costs nothing to find out; who did not answer is left in peace.
                    pause = EXCHANGE_PERIOD / 6 if error.attempts else EXCHANGE_FIRST
            await trio.sleep(pause)

    # --- looking in ---

    def _samples(self) -> Iterable[Sample]:
        if self.discv5.running:
            for name, value in (self.discv5.counters() | self.discv5.gauges()).items():
                yield f"discv5_{name}", {}, value
        yield "discovery_record_seq", {}, self.enr.record.seq if self._is_bound else 0


def _services_wanted(config: KernelConfig) -> frozenset[str]:
    """Services of other nodes that this one may use: without relay all, else history that it has not."""
    if not config.relay:
        return frozenset(SERVICES)
    return frozenset() if config.services.store else frozenset({"store"})


def _capabilities(config: KernelConfig) -> Capability:
    services = config.services
    mounted = {
        Capability.RELAY: config.relay,
        Capability.STORE: services.store,
        Capability.FILTER: services.filter and config.relay,
        Capability.LIGHTPUSH: services.lightpush and config.relay,
    }
    found = Capability(0)
    for bit, there in mounted.items():
        found |= bit if there else Capability(0)
    return found


def _records(option: str, texts: Iterable[str]) -> tuple[Enr, ...]:
    found = []
    for text in texts:
        try:
            found.append(Enr.from_text(text))
        except EnrError as error:
            raise PeeringError(f"{option}: {text}: {error}") from error
    return tuple(found)


def _usable(address: str) -> bool:
    """Whether our host can dial it."""
    try:
        addresses.parse(address)
    except BadAddress:
        return False
    return True
