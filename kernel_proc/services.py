"""The service protocols of a node, and the clients of other nodes' services: create, mount, inspect.

Each has its own module in `kernel_proc.protocols`; what they share is passed in here.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from random import Random
from typing import Final

import trio

from ipc_schema.config.addresses import peer_id_in
from ipc_schema.config.archive import parse_database_url
from ipc_schema.config.kernel import KernelConfig
from ipc_schema.config.services import ServiceOptions
from ipc_schema.kernel.records import ProtocolHealth
from ipc_schema.message import WakuMessage
from ipc_schema.server import Route
from ipc_schema.topics import shard_topic
from kernel_proc.archive import make_archive
from kernel_proc.archive.api import ArchiveState
from kernel_proc.archive.service import MessageArchive
from kernel_proc.archive.settings import ArchiveSettings
from kernel_proc.health import NOT_MOUNTED, client_health, service_health
from kernel_proc.ipc.methods.filter import filter_routes
from kernel_proc.ipc.methods.filter_service import filter_service_routes
from kernel_proc.ipc.methods.lightpush import lightpush_routes
from kernel_proc.ipc.methods.peer_exchange import peer_exchange_routes
from kernel_proc.ipc.methods.store import store_routes
from kernel_proc.ipc.methods.store_admin import OwnStore, store_admin_routes
from kernel_proc.metrics import Registry, Sample
from kernel_proc.network import Network
from kernel_proc.p2p.api import Host, PeerIdText
from kernel_proc.peering.settings import operators_peers
from kernel_proc.protocols import lightpush_codec, store_codec
from kernel_proc.protocols.filter.client import SERVICE as FILTER_SERVICE
from kernel_proc.protocols.filter.client import FilterClient
from kernel_proc.protocols.filter.codec import SUBSCRIBE_PROTOCOL
from kernel_proc.protocols.filter.pushes import PushSink
from kernel_proc.protocols.filter.service import FilterService
from kernel_proc.protocols.filter.subscriptions import FilterLimits
from kernel_proc.protocols.lightpush import LightpushService
from kernel_proc.protocols.lightpush_client import LightpushClient
from kernel_proc.protocols.peer_exchange import PROTOCOL as PX_PROTOCOL
from kernel_proc.protocols.peer_exchange import SERVICE as PX_SERVICE
from kernel_proc.protocols.peer_exchange import PeerExchangeClient, PeerExchangeService
from kernel_proc.protocols.peer_select import PeerRanking, ServicePeerChoice
from kernel_proc.protocols.ratelimit import ServiceLimiter
from kernel_proc.protocols.requests import RequestService
from kernel_proc.protocols.resume import ResumeScope, StoreResume
from kernel_proc.protocols.store import StoreService
from kernel_proc.protocols.store_client import StoreClient
from kernel_proc.protocols.sync.service import StoreSync, SyncScope, SyncSettings, SyncTopics
from kernel_proc.publishing import Publishing
from kernel_proc.sender import MessageSender
from kernel_proc.shards import Shards

RESUME_FILE: Final = "resume.json"
SPOOL_FILE: Final = "store-spool.sqlite3"
LIGHTPUSH: Final = (lightpush_codec.PROTOCOL,)
LEGACY_LIGHTPUSH: Final = (lightpush_codec.LEGACY_PROTOCOL,)
STORE: Final = (store_codec.PROTOCOL,)
FILTER: Final = (SUBSCRIBE_PROTOCOL,)
PEER_EXCHANGE: Final = (PX_PROTOCOL,)


class Services:
    """Create it after the network, and mount before listening: identify must list the protocols for the first
    peer.

    `sender` is None if relay is off. `changed` is called when health may have changed. Raise
    `ArchiveConfigError` if the driver of the archive's database is not installed.
    """

    def __init__(
        self,
        config: KernelConfig,
        network: Network,
        shards: Shards,
        sender: MessageSender | None,
        registry: Registry,
        rng: Random,
        *,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        services = config.services
        host = network.host
        self._network = network
        self._shard_count = config.network.shard_count
        self._mounted: list[RequestService] = []
        configured = [
            ("store", STORE, services.storenode),
            ("lightpush", LIGHTPUSH, services.lightpushnode),
            (FILTER_SERVICE, FILTER, services.filternode),
            (PX_SERVICE, PEER_EXCHANGE, services.peer_exchange_node),
        ]
        self._configured = [(name, ids, address) for name, ids, address in configured if address is not None]
        self.peers = ServicePeerChoice(
            host,
            PeerRanking(trio.current_time, rng),
            network.metadata.peer_shards,
            {name: [address] for name, _, address in self._configured},
        )
        self.archive = _make_archive(services, Path(config.data_dir), registry, changed)
        if self.archive is not None:
            shards.add_sink(_into(self.archive))
            limiter = ServiceLimiter(services.rate_limits["store"])
            self._mounted.append(StoreService(host, self.archive, registry, limiter).service)
        self.sync: StoreSync | None = None
        self.resume: StoreResume | None = None
        self._has_lightpush = services.lightpush and sender is not None
        if services.lightpush and sender is not None and network.relay is not None:
            limiter = ServiceLimiter(services.rate_limits["lightpush"])
            lightpush = LightpushService(host, sender, network.relay, config.network, registry, limiter)
            self._mounted += lightpush.services
        self._lightpush_client = LightpushClient(host, self.peers, registry)
        self._store_client = StoreClient(
            host, self.peers, registry, max_message_size=config.network.max_message_size
        )
        if self.archive is not None:
            self._keep_whole(config, network, shards, self.archive, registry, rng)
        self._own_store = OwnStore(
            archive=self.archive,
            sync=self.sync,
            resume=self.resume,
            peer_id=host.peer_id,
            database=parse_database_url(services.store_message_db_url, Path(config.data_dir)).shown,
            retention=str(services.store_message_retention_policy),
            cluster=config.network.cluster,
            max_message_size=config.network.max_message_size,
            is_signed=network.is_signed,
        )
        self.filter: FilterService | None = None
        if services.filter and network.relay is not None:
            self.filter = _make_filter(services, host, registry)
            shards.add_sink(self.filter.on_message)
            self._mounted.append(self.filter.requests)
        self.filter_client = FilterClient(
            host,
            self.peers,
            registry,
            PushSink(shards.deliver_filtered, config.network.max_message_size, network.is_valid),
            is_leased=shards.is_leased,
            changed=shards.filter_changed,
        )
        shards.filter_client = self.filter_client
        self._filter_routes = filter_routes(
            self.filter_client, shards, config.network.cluster, config.network.shard_count
        )
        peering = network.peering
        self._has_peer_exchange = services.peer_exchange
        if services.peer_exchange:
            exchange = PeerExchangeService(
                host,
                peering.sources.exchangeable,
                registry,
                own=peering.own.exchangeable,
                rate_limit=services.rate_limits["px"],
                rng=rng,
            )
            self._mounted.append(exchange.requests)
        self._peer_exchange_client = PeerExchangeClient(
            host, self.peers, registry, received=peering.sources.exchanged
        )
        peering.attach_services(self._peer_exchange_client, self._at_work)
        registry.add_source(self._samples)

    def _keep_whole(
        self,
        config: KernelConfig,
        network: Network,
        shards: Shards,
        archive: MessageArchive,
        registry: Registry,
        rng: Random,
    ) -> None:
        """Create what completes the archive from other stores."""
        services, cluster, count = config.services, config.network.cluster, config.network.shard_count
        if services.store_sync:

            def topics() -> SyncTopics:
                joined = sorted(shards.joined())
                names = tuple(shard_topic(cluster, shard) for shard in joined)
                return SyncTopics(names, whole=joined == list(range(count)))

            self.sync = StoreSync(
                network.host,
                archive,
                self.peers,
                SyncSettings(
                    interval=services.store_sync_interval,
                    range=services.store_sync_range,
                    jitter=services.store_sync_relay_jitter,
                ),
                registry,
                rng,
                SyncScope(
                    topics=topics,
                    is_signed=network.is_signed,
                    max_message_size=config.network.max_message_size,
                ),
            )
        if services.store_resume:

            def is_covered(topic: str) -> bool:
                relay = network.relay
                return relay is not None and bool(relay.mesh_peers(topic) or relay.topic_peers(topic))

            configured = operators_peers(config) - {network.host.peer_id}

            def is_expecting() -> bool:
                return any(network.host.identity(peer_id) is None for peer_id in configured)

            self.resume = StoreResume(
                self._store_client,
                self.peers,
                archive,
                registry,
                Path(config.data_dir) / RESUME_FILE,
                ResumeScope(
                    topics=lambda: {shard_topic(cluster, shard): shard for shard in config.shards},
                    is_covered=is_covered,
                    is_expecting=is_expecting,
                    is_signed=network.is_signed,
                    keeps=services.store_message_retention_policy.seconds,
                ),
            )

    # --- lifetime ---

    def mount(self) -> None:
        for service in self._mounted:
            service.mount()
        self.filter_client.mount()
        if self.sync is not None:
            self.sync.mount()

    def parts(self) -> Iterable[tuple[str, Callable[[], Awaitable[None]]]]:
        """Return the parts to run with the node, by name."""
        if self.archive is not None:
            yield "archive", self.archive.run
        if self.resume is not None:
            yield "store resume", self.resume.run
        if self.sync is not None:
            yield "store sync", self.sync.run
        if self.filter is not None:
            yield "filter", self.filter.run
        yield "filter client", self.filter_client.run

    def routes(self, publishing: Publishing) -> Mapping[str, Route]:
        """Return the methods of the requests socket."""
        return {
            **lightpush_routes(publishing, self._lightpush_client),
            **store_routes(
                self._store_client,
                self.archive,
                self._network.host.peer_id,
                shard_count=self._shard_count,
            ),
            **store_admin_routes(self._own_store),
            **self._filter_routes,
            **filter_service_routes(self.filter.table if self.filter is not None else None),
            **peer_exchange_routes(self._peer_exchange_client),
        }

    # --- inspection ---

    def _at_work(self) -> Set[PeerIdText]:
        """Return the peers with a request in progress, in either direction."""
        synced = self.sync.busy if self.sync is not None else frozenset()
        return frozenset(self.peers.asked()).union(synced, *(service.busy for service in self._mounted))

    def protocols(self) -> list[ProtocolHealth]:
        """Return the health of every service and client, by nwaku's names."""
        relay = self._network.relay
        no_relay = "" if relay is not None and relay.peers() else "Relay is not ready"
        own_store = self.archive is not None
        return [
            service_health("Lightpush", mounted=self._has_lightpush, lacks=no_relay),
            service_health("Legacy Lightpush", mounted=self._has_lightpush, lacks=no_relay),
            service_health(
                "Store", mounted=own_store, lacks=self._archive_lacks(), note=self._archive_note()
            ),
            self._client("Lightpush Client", "Lightpush", LIGHTPUSH),
            self._client("Legacy Lightpush Client", "Lightpush", LEGACY_LIGHTPUSH),
            self._client("Store Client", "Store", STORE, own=own_store and not self._archive_lacks()),
            self._sync_health(),
            service_health("Filter", mounted=self.filter is not None, lacks=no_relay),
            self._filter_client_health(),
            service_health("Peer Exchange", mounted=self._has_peer_exchange),
            *(service_health(name, mounted=False) for name in NOT_MOUNTED),
        ]

    def _sync_health(self) -> ProtocolHealth:
        if self.sync is None:
            return service_health("Store Sync", mounted=False)
        return client_health("Store Sync", "Store Sync", len(self.sync.partners()))

    def _filter_client_health(self) -> ProtocolHealth:
        """Return the filter client's health, without relay: by the peers that push what is wanted, on the
        weakest shard."""
        interests = self.filter_client.interests
        wanted = interests.wanted() if self._network.relay is None else []
        if not wanted:
            return self._client("Filter Client", "Filter", FILTER)
        return client_health("Filter Client", "Filter", min(map(interests.strength, wanted)))

    def _archive_lacks(self) -> str:
        archive = self.archive
        if archive is None or archive.state is ArchiveState.READY:
            return ""
        backlog = archive.backlog()
        where = f", {backlog.on_disk} of them on disk" if backlog.on_disk else ""
        waiting = f"; {backlog.messages} messages wait{where}" if backlog.messages else ""
        return (archive.reason or f"the archive is {archive.state}") + waiting

    def _archive_note(self) -> str:
        damaged = () if self.archive is None else self.archive.backlog().damaged
        return f"damaged spool files were set aside: {', '.join(damaged)}" if damaged else ""

    def _client(
        self, name: str, service: str, protocols: Sequence[str], *, own: bool = False
    ) -> ProtocolHealth:
        return client_health(name, service, len(self.peers.connected(protocols)), own=own)

    def _samples(self) -> Iterable[Sample]:
        yield "lightpush_peers", {}, len(self.peers.connected(LIGHTPUSH))
        yield "store_peers", {}, len(self.peers.connected(STORE))
        yield "filter_peers", {}, len(self.peers.connected(FILTER))
        yield "px_peers", {}, len(self.peers.connected(PEER_EXCHANGE))
        for _, (protocol,), address in self._configured:
            peer_id = peer_id_in(address)
            connected = peer_id is not None and self._network.host.is_connected(peer_id)
            yield "service_peers", {"protocol": protocol, "peerId": address}, connected
        if self.sync is not None:
            yield from self.sync.samples()
        else:
            yield "total_messages_cached", {}, 0
        for service in self._mounted:
            yield from service.samples()


def _make_archive(
    config: ServiceOptions, directory: Path, registry: Registry, changed: Callable[[], None]
) -> MessageArchive | None:
    if not config.store:
        return None
    database = parse_database_url(config.store_message_db_url, directory)
    is_remote, read_url = database.url is not None, config.store_message_db_read_url
    settings = ArchiveSettings(
        database=database,
        read_database=parse_database_url(read_url, directory) if is_remote and read_url else None,
        spool=directory / SPOOL_FILE if is_remote and config.store_message_spool_size else None,
        spool_bytes=config.store_message_spool_size,
        retention=config.store_message_retention_policy,
        max_connections=config.store_max_num_db_connections,
        migrate=config.store_message_db_migration,
        vacuum=config.store_message_db_vacuum,
    )
    return make_archive(settings, registry=registry, changed=changed)


def _make_filter(config: ServiceOptions, host: Host, registry: Registry) -> FilterService:
    limits = FilterLimits(
        config.filter_max_peers_to_serve, config.filter_max_criteria, config.filter_subscription_timeout
    )
    return FilterService(host, registry, limits=limits, rate_limit=config.rate_limits["filter"])


def _into(archive: MessageArchive) -> Callable[[str, WakuMessage, bytes, int], None]:
    def sink(topic: str, message: WakuMessage, digest: bytes, _source: int) -> None:
        archive.offer(topic, message, digest, time.time_ns())

    return sink
