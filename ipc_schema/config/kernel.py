"""The kernel's options and its typed configuration.

Without a preset the node is on a local network of its own: cluster 0, one shard with autosharding, no entry
nodes, listening on loopback. `cluster-id` or `entry-node` without one name a network to join: the node then
listens on all addresses and runs discv5.

Cluster 0 because it is the one set aside for "no network in particular"
(52/WAKU2-RELAY-STATIC-SHARD-ALLOC) and nwaku's default, so that the two connect without any option. nwaku
compares cluster ids in metadata for 0 as for any other; only go-waku skips the comparison for 0, which is
irrelevant on loopback.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from typing import ClassVar, Final

from ipc_schema.config import common
from ipc_schema.config.addresses import can_dial, split_circuit
from ipc_schema.config.common import ProcessOptions
from ipc_schema.config.discovery import (
    DiscoveryConfig,
    DiscoveryOptions,
    discovery_config,
)
from ipc_schema.config.kernel_checks import (
    TlsFiles,
    check_shards,
    kernel_warnings,
    ports,
    static_shards,
    websocket_tls,
)
from ipc_schema.config.kinds import (
    BOOLEAN,
    ENDPOINT,
    ENTRY_NODE,
    IP_ADDRESS,
    MULTIADDR,
    PATH,
    PORT,
    PRIVATE_KEY,
    PROTECTED_SHARD,
    SHARD,
    TEXT,
    ProtectedShard,
    duration,
    integer,
    size,
)
from ipc_schema.config.options import (
    Layer,
    OptionSection,
    Origin,
    Resolved,
    Schema,
    option,
    resolve,
)
from ipc_schema.config.presets import (
    DEFAULT_MAX_MESSAGE_SIZE,
    find_preset,
    preset_layer,
)
from ipc_schema.config.services import ServiceOptions, effective_services
from ipc_schema.config.sources import load_config
from ipc_schema.hello import NetworkInfo
from ipc_schema.paths import KernelEndpoints, kernel_endpoints
from ipc_schema.topics import MAX_CLUSTER, MAX_SHARD_COUNT

MIB: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(OptionSection):
    """The network, the node's part in it, and its entry nodes."""

    TITLE: ClassVar[str] = "The network"

    preset: str = common.preset_option()
    cluster_id: int = option(integer(0, MAX_CLUSTER), "cluster of the network", default=0)
    num_shards_in_network: int = option(
        integer(0, MAX_SHARD_COUNT),
        "shards of the cluster for autosharding; 0: static sharding",
        default=1,
    )
    max_msg_size: int = option(
        size(1024, 16 * MIB),
        "largest relay frame and largest encoded message, such as 150KiB",
        default=DEFAULT_MAX_MESSAGE_SIZE,
    )
    shard: tuple[int | str, ...] = option(
        SHARD,
        "shard that the node stays on and records, without any lease; all: each of the network; "
        "none: a shard is joined only while an app holds a lease on it",
        repeatable=True,
        unset="all under a preset, under logos up or launch, and with store; else none",
    )
    protected_shard: tuple[ProtectedShard, ...] = option(
        PROTECTED_SHARD,
        "shard that accepts only messages signed with this key: <shard>:<public key in hex>",
        repeatable=True,
    )
    staticnode: tuple[str, ...] = option(MULTIADDR, "peer to stay connected to", repeatable=True)
    entry_node: tuple[str, ...] = option(
        ENTRY_NODE,
        "node through which to enter the network: a multiaddr, a node record (enr:…) or a "
        "signed list (enrtree://…); added to those of the preset",
        repeatable=True,
    )


@dataclass(frozen=True, kw_only=True)
class ListeningOptions(OptionSection):
    """Addresses on which the node can be reached."""

    TITLE: ClassVar[str] = "Listening"

    listen_address: str = option(
        IP_ADDRESS,
        "address to listen on; ::: all addresses of IPv4 and IPv6; "
        "unset: 0.0.0.0 under a preset, with cluster-id and with entry-node, else loopback",
        default="127.0.0.1",
    )
    tcp_port: int = option(PORT, "libp2p over TCP; 0: automatic", default=60000)
    websocket_support: bool = option(BOOLEAN, "listen for libp2p over WebSocket too", default=False)
    websocket_port: int = option(PORT, "libp2p over WebSocket; 0: automatic", default=8000)
    websocket_secure_support: bool = option(
        BOOLEAN,
        "serve TLS on websocket-port (wss), as browsers want it; announced by dns4-domain-name",
        default=False,
    )
    websocket_secure_key_path: str | None = option(
        PATH, "private key of websocket-secure-cert-path in PEM; both are read again when they change"
    )
    websocket_secure_cert_path: str | None = option(PATH, "certificate chain of this host in PEM")
    ports_shift: int = common.ports_shift_option()


@dataclass(frozen=True, kw_only=True)
class PeerOptions(OptionSection):
    """Connections, identity and relay."""

    TITLE: ClassVar[str] = "Peers and relay"

    max_connections: int = option(integer(1, 10_000), "most libp2p connections", default=150)
    ip_colocation_limit: int = option(
        integer(0, 10_000), "most connections per IP address; 0: no limit", default=5
    )
    nodekey: bytes | None = option(
        PRIVATE_KEY,
        "secp256k1 private key of the node, 64 hex digits",
        secret=True,
        unset="generated on first start and kept in the data directory",
    )
    agent_string: str | None = option(
        TEXT, "agent string announced to peers (identify)", unset="logos-kernel/<version>"
    )
    relay: bool = option(
        BOOLEAN,
        "run relay; when off, the node forwards no messages and receives its own by filter",
        default=True,
    )
    relay_peer_exchange: bool = option(
        BOOLEAN,
        "peer exchange in PRUNE: suggest other peers when our mesh is full, and use peers suggested to us",
        default=False,
    )


@dataclass(frozen=True, kw_only=True)
class KernelSocketOptions(OptionSection):
    """ZeroMQ endpoints and what is recorded for their consumers."""

    TITLE: ClassVar[str] = "Sockets"

    ipc_events: str | None = option(
        ENDPOINT, "endpoint of the event stream", unset="ipc://<ipc-dir>/kernel/events"
    )
    ipc_requests: str | None = option(
        ENDPOINT, "endpoint for requests", unset="ipc://<ipc-dir>/kernel/requests"
    )
    ipc_control: str | None = option(
        ENDPOINT, "endpoint for health, shutdown and log level", unset="ipc://<ipc-dir>/kernel/control"
    )
    replay_budget: int = option(
        size(0, 16 * 1024 * MIB), "memory for all replay rings together", default=64 * MIB
    )
    lease_ttl: float = option(
        duration(0.5, 3600.0), "time after which a lease that is not renewed lapses", default=60.0
    )


@dataclass(frozen=True, kw_only=True)
class KernelOptions:
    """All options of a kernel, by section."""

    network: NetworkOptions
    listening: ListeningOptions
    peers: PeerOptions
    discovery: DiscoveryOptions
    services: ServiceOptions
    process: ProcessOptions
    sockets: KernelSocketOptions


KERNEL_SCHEMA: Final = Schema("kernel", KernelOptions, common.MOVED_TO_GATEWAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelConfig(common.CommonConfig):
    """Typed configuration of a kernel. Ports are already shifted; sizes in bytes, times in seconds."""

    network: NetworkInfo
    shards: tuple[int, ...]
    """Shards joined and recorded without any lease."""
    protected_shards: tuple[ProtectedShard, ...]
    static_nodes: tuple[str, ...]
    entry_nodes: tuple[str, ...]
    """The multiaddrs among them; those of the preset come first. The others are in `discovery`."""
    listen_address: str
    tcp_port: int
    websocket_port: int | None
    """None: no WebSocket listener; 0: automatic."""
    websocket_tls: TlsFiles | None
    """None: the WebSocket listener is not secure."""
    peers: PeerOptions
    services: ServiceOptions
    discovery: DiscoveryConfig
    endpoints: KernelEndpoints
    """Endpoints to bind: below `ipc_dir` unless configured otherwise."""
    sockets: KernelSocketOptions
    resolved: Resolved[KernelOptions] = field(repr=False, compare=False)

    @property
    def listen_hosts(self) -> tuple[str, ...]:
        """The IP addresses to bind, at most one per version: `::` stands for both."""
        return ("0.0.0.0", "::") if self.listen_address == "::" else (self.listen_address,)  # noqa: S104


def kernel_config(layers: Iterable[Layer]) -> KernelConfig:
    """Resolve the layers (preset and defaults are added here) and check the options against each other."""
    explicit = list(layers)
    given = resolve(KERNEL_SCHEMA, explicit)
    preset = find_preset(given.options.network.preset)
    network_layer = preset_layer(preset) if preset else _named_network_layer(given)
    resolved = resolve(KERNEL_SCHEMA, [*explicit, network_layer] if network_layer else explicit)
    network = NetworkInfo(
        cluster=resolved.options.network.cluster_id,
        shard_count=resolved.options.network.num_shards_in_network,
        max_message_size=resolved.options.network.max_msg_size,
        preset=preset.name if preset else "",
        rln_required=preset is not None and preset.rln is not None,
    )
    check_shards(resolved, network)
    options = resolved.options
    shared = common.common_config(resolved, options.process, kernel_warnings(resolved, preset, network))
    endpoints = common.endpoints(
        resolved,
        kernel_endpoints,
        ("ipc-dir", shared["ipc_dir"]),
        {"events": "ipc-events", "requests": "ipc-requests", "control": "ipc-control"},
    )
    tcp_port, websocket_port, udp_port = ports(resolved)
    return KernelConfig(
        **shared,
        network=network,
        shards=static_shards(resolved, network),
        protected_shards=options.network.protected_shard,
        static_nodes=tuple(one for one in options.network.staticnode if can_dial(one) or split_circuit(one)),
        entry_nodes=tuple(filter(can_dial, options.network.entry_node)),
        listen_address=options.listening.listen_address,
        tcp_port=tcp_port,
        websocket_port=websocket_port,
        websocket_tls=websocket_tls(resolved),
        peers=options.peers,
        services=effective_services(options.services),
        discovery=discovery_config(resolved, port=udp_port, preset=preset is not None),
        endpoints=endpoints,
        sockets=options.sockets,
    )


load_kernel_config: Final = partial(load_config, KERNEL_SCHEMA, kernel_config)


def _named_network_layer(given: Resolved[KernelOptions]) -> Layer | None:
    """Return what a network that is named without a preset changes: as under one, the node can be reached
    and looks for peers.

    An address on loopback keeps the node off any network, whatever it is called.
    """
    named = next((name for name in ("entry-node", "cluster-id") if given.explicit(name)), None)
    address = given.options.listening.listen_address
    if named is None or (given.explicit("listen-address") and ip_address(address).is_loopback):
        return None
    return Layer(
        Origin.DEFAULT,
        {"listen-address": "0.0.0.0", "discv5-discovery": True},  # noqa: S104 - see above
        detail=f"with {named}",
    )
