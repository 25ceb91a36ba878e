"""The kernel's options and its typed configuration.

Without a preset the node is on a local network of its own: cluster 0, one shard with autosharding, no entry
nodes, listening on loopback. Cluster 0 because it is the one set aside for "no network in particular"
(52/WAKU2-RELAY-STATIC-SHARD-ALLOC) and what nwaku uses when it is told nothing, so that both meet without any
option; nwaku compares cluster ids in metadata for 0 as for any other (only go-waku skips the comparison for
0, which matters to nobody who listens on loopback).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ipc_schema.config import common
from ipc_schema.config.addresses import is_multiaddr
from ipc_schema.config.discovery import (
    DISCOVERY_OPTIONS,
    DiscoveryConfig,
    discovery_config,
    discovery_warnings,
)
from ipc_schema.config.kinds import (
    ALL,
    ENDPOINT,
    ENTRY_NODE,
    IP_ADDRESS,
    MULTIADDR,
    NONE,
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
from ipc_schema.config.metrics import MetricsConfig, metrics_config, metrics_options, metrics_warnings
from ipc_schema.config.options import (
    Layer,
    Option,
    PortUse,
    Resolved,
    Schema,
    Section,
    refuse_port_clashes,
    resolve,
)
from ipc_schema.config.presets import (
    DEFAULT_MAX_MESSAGE_SIZE,
    Preset,
    find_preset,
    preset_layer,
)
from ipc_schema.config.services import (
    SERVICE_OPTIONS,
    ServiceConfig,
    service_config,
    service_warnings,
)
from ipc_schema.config.sources import TomlFile, explicit_layers
from ipc_schema.hello import NetworkInfo
from ipc_schema.paths import KernelEndpoints, kernel_endpoints
from ipc_schema.topics import MAX_CLUSTER, MAX_SHARD_COUNT

__all__ = ["KERNEL_SCHEMA", "KernelConfig", "kernel_config", "load_kernel_config"]

MIB: Final = 1024 * 1024

NETWORK_OPTIONS: Final = (
    Option(name="cluster-id", kind=integer(0, MAX_CLUSTER), default=0, doc="cluster of the network"),
    Option(
        name="num-shards-in-network",
        kind=integer(0, MAX_SHARD_COUNT),
        default=1,
        doc="shards of the cluster, among which content topics are spread; 0: static sharding",
    ),
    Option(
        name="max-msg-size",
        kind=size(1024, 16 * MIB),
        default=DEFAULT_MAX_MESSAGE_SIZE,
        doc="largest relay frame and largest encoded message, such as 150KiB",
    ),
)

KERNEL_SCHEMA: Final = Schema(
    "kernel",
    Section(
        "The network",
        (
            common.PRESET_OPTION,
            *NETWORK_OPTIONS,
            Option(
                name="shard",
                kind=SHARD,
                repeatable=True,
                unset="all under a preset, under logos up or launch, and with store; else none",
                doc="shard that the node stays on and records, without any lease; all: each of the network; "
                "none: a shard is joined only while an app holds a lease on it",
            ),
            Option(
                name="protected-shard",
                kind=PROTECTED_SHARD,
                repeatable=True,
                doc="shard that accepts only messages signed with this key: <shard>:<public key in hex>",
            ),
            Option(
                name="staticnode",
                kind=MULTIADDR,
                repeatable=True,
                doc="peer to stay connected to",
            ),
            Option(
                name="entry-node",
                kind=ENTRY_NODE,
                repeatable=True,
                doc="node through which to enter the network: a multiaddr, a node record (enr:…) or a "
                "signed list (enrtree://…); added to those of the preset",
            ),
        ),
    ),
    Section(
        "Listening",
        (
            Option(
                name="listen-address",
                kind=IP_ADDRESS,
                default="127.0.0.1",
                doc="address to listen on; 0.0.0.0 under a preset, loopback without one",
            ),
            Option(name="tcp-port", kind=PORT, default=60000, doc="libp2p over TCP; 0: automatic"),
            common.switch("websocket-support", False, "listen for libp2p over WebSocket too"),
            Option(name="websocket-port", kind=PORT, default=8000, doc="libp2p over WebSocket; 0: automatic"),
            common.PORTS_SHIFT,
        ),
    ),
    Section(
        "Peers and relay",
        (
            Option(
                name="max-connections", kind=integer(1, 10_000), default=150, doc="libp2p connections at once"
            ),
            Option(
                name="ip-colocation-limit",
                kind=integer(0, 10_000),
                default=5,
                doc="connections with one IP address; 0: no limit",
            ),
            Option(
                name="nodekey",
                kind=PRIVATE_KEY,
                secret=True,
                unset="made on first start and kept in the data directory",
                doc="secp256k1 private key of the node, 64 hex digits",
            ),
            Option(
                name="agent-string",
                kind=TEXT,
                unset="logos-kernel/<version>",
                doc="what the node calls itself to its peers",
            ),
            common.switch(
                "relay",
                True,
                "take part in relay; off, the node carries no messages, and gets its own by filter",
            ),
            common.switch(
                "relay-peer-exchange",
                False,
                "name other peers to relay peers for whom our mesh has no place, and take up those named "
                "to us",
            ),
        ),
    ),
    Section("Discovery and addresses", DISCOVERY_OPTIONS),
    Section("Services", SERVICE_OPTIONS),
    Section("Metrics", metrics_options(8008)),
    Section("The process", common.COMMON_OPTIONS),
    Section(
        "Sockets",
        (
            Option(
                name="ipc-events",
                kind=ENDPOINT,
                unset="ipc://<ipc-dir>/kernel/events",
                doc="endpoint of the event stream",
            ),
            Option(
                name="ipc-requests",
                kind=ENDPOINT,
                unset="ipc://<ipc-dir>/kernel/requests",
                doc="endpoint for requests",
            ),
            Option(
                name="ipc-control",
                kind=ENDPOINT,
                unset="ipc://<ipc-dir>/kernel/control",
                doc="endpoint for health, shutdown and log level",
            ),
            Option(
                name="replay-budget",
                kind=size(0, 16 * 1024 * MIB),
                default=64 * MIB,
                doc="memory for all replay rings together",
            ),
            Option(
                name="lease-ttl",
                kind=duration(0.5, 3600.0),
                default=60.0,
                doc="time after which a lease that is not renewed lapses",
            ),
        ),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelConfig(common.CommonConfig):
    """Everything a kernel is told. Ports are already shifted; sizes in bytes, times in seconds."""

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
    max_connections: int
    ip_colocation_limit: int
    """0: no limit."""
    node_key: bytes | None = field(repr=False)
    """32 bytes, or None: the key file of the data directory holds."""
    agent_string: str | None
    relay: bool
    relay_peer_exchange: bool
    """PRUNEs may carry peers: those we send, and those we take up."""
    services: ServiceConfig
    discovery: DiscoveryConfig
    metrics: MetricsConfig
    endpoints: KernelEndpoints
    """Where to bind: below `ipc_dir` but for those that were configured."""
    replay_budget: int
    lease_ttl: float
    resolved: Resolved = field(repr=False, compare=False)

    def describe(self) -> list[dict[str, Any]]:
        """All options with their values and where those came from (`node.config`)."""
        return common.describe(KERNEL_SCHEMA, self.resolved)


def load_kernel_config(
    *,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    file: TomlFile | None = None,
) -> KernelConfig:
    """Put the kernel's configuration together from its sources. Raises `ConfigError`."""
    return kernel_config(explicit_layers(KERNEL_SCHEMA, flags, environ, file))


def kernel_config(layers: Iterable[Layer]) -> KernelConfig:
    """Resolve the layers (preset and defaults are added here) and check what only fits together or not."""
    explicit = list(layers)
    preset = find_preset(resolve(KERNEL_SCHEMA, explicit)["preset"])
    resolved = resolve(KERNEL_SCHEMA, explicit + ([preset_layer(preset)] if preset else []))
    network = NetworkInfo(
        cluster=resolved["cluster-id"],
        shard_count=resolved["num-shards-in-network"],
        max_message_size=resolved["max-msg-size"],
        preset=preset.name if preset else "",
        rln_required=preset is not None and preset.rln is not None,
    )
    _check_shards(resolved, network)
    shared = common.common_config(resolved, _warnings(resolved, preset, network))
    endpoints = common.endpoints(
        resolved,
        kernel_endpoints,
        ("ipc-dir", shared["ipc_dir"]),
        {"events": "ipc-events", "requests": "ipc-requests", "control": "ipc-control"},
    )
    tcp_port, websocket_port, udp_port, metrics_port = _ports(resolved)
    return KernelConfig(
        **shared,
        network=network,
        shards=_static_shards(resolved, network),
        protected_shards=resolved["protected-shard"],
        static_nodes=resolved["staticnode"],
        entry_nodes=tuple(node for node in resolved["entry-node"] if is_multiaddr(node)),
        listen_address=resolved["listen-address"],
        tcp_port=tcp_port,
        websocket_port=websocket_port,
        max_connections=resolved["max-connections"],
        ip_colocation_limit=resolved["ip-colocation-limit"],
        node_key=resolved["nodekey"],
        agent_string=resolved["agent-string"] or None,
        relay=resolved["relay"],
        relay_peer_exchange=resolved["relay-peer-exchange"],
        services=service_config(resolved),
        discovery=discovery_config(resolved, port=udp_port, preset=preset is not None),
        metrics=metrics_config(resolved, metrics_port),
        endpoints=endpoints,
        replay_budget=resolved["replay-budget"],
        lease_ttl=resolved["lease-ttl"],
        resolved=resolved,
    )


def _static_shards(resolved: Resolved, network: NetworkInfo) -> tuple[int, ...]:
    """Return the configured shards.

    A node of a known network, and one that archives, carries all of them where none is named, as nwaku does
    under autosharding: it would otherwise be of no use to the network, and its archive would have holes.
    """
    named: tuple[int | str, ...] = resolved["shard"]
    if not resolved["relay"] or NONE in named:
        return ()
    if ALL in named or (not named and (network.preset or resolved["store"])):
        return tuple(range(network.shard_count))
    return _numbers(named)


def _numbers(named: Iterable[int | str]) -> tuple[int, ...]:
    return tuple(one for one in named if isinstance(one, int))


def _check_shards(resolved: Resolved, network: NetworkInfo) -> None:
    protected: tuple[ProtectedShard, ...] = resolved["protected-shard"]
    named: tuple[int | str, ...] = resolved["shard"]
    if len(named) > 1 and (ALL in named or NONE in named):
        raise resolved.refuse("shard", f"{ALL} and {NONE} stand alone")
    if ALL in named and not resolved["relay"]:
        raise resolved.refuse("shard", "needs relay, which is off")
    if ALL in named and not network.shard_count:
        raise resolved.refuse("shard", f"{ALL} needs num-shards-in-network: with static sharding name each")
    numbers = {"shard": _numbers(named), "protected-shard": tuple(item.shard for item in protected)}
    for key, shards in numbers.items():
        if shards and not resolved["relay"]:
            raise resolved.refuse(key, "needs relay, which is off")
        for shard in shards:
            if network.shard_count and shard >= network.shard_count:
                raise resolved.refuse(
                    key, f"shard {shard} does not exist: the network has {network.shard_count} (from 0)"
                )
    if len(set(numbers["protected-shard"])) < len(protected):
        raise resolved.refuse("protected-shard", "two keys for one shard")


def _ports(resolved: Resolved) -> tuple[int, int | None, int, int]:
    """The ports of TCP, WebSocket, UDP and metrics, shifted and free of clashes."""
    address = resolved["listen-address"]
    uses = [PortUse("tcp-port", address, common.shifted(resolved, "tcp-port"))]
    if resolved["websocket-support"]:
        uses.append(PortUse("websocket-port", address, common.shifted(resolved, "websocket-port")))
    endpoints = common.tcp_uses(resolved, ("ipc-events", "ipc-requests", "ipc-control"))
    websocket = uses[1].port if len(uses) > 1 else None
    metrics = common.shifted(resolved, "metrics-server-port")
    if resolved["metrics-server"]:
        uses.append(PortUse("metrics-server-port", resolved["metrics-server-address"], metrics))
    refuse_port_clashes((*uses, *endpoints))
    return uses[0].port, websocket, common.shifted(resolved, "discv5-udp-port"), metrics


def _warnings(resolved: Resolved, preset: Preset | None, network: NetworkInfo) -> Iterable[str]:
    if preset is not None:
        for key, given in (
            ("cluster-id", preset.cluster),
            ("num-shards-in-network", preset.shard_count),
            ("max-msg-size", preset.max_message_size),
        ):
            if resolved[key] != given:
                source = resolved.source_of(key).source()
                yield f"{key} {resolved[key]} ({source}) overrides {given} of the preset {preset.name}"
        if (
            not resolved["entry-node"]
            and not resolved["staticnode"]
            and not (resolved["discv5-discovery"] and resolved["discv5-bootstrap-node"])
        ):
            yield (
                f"the preset {preset.name} has no entry node that can be dialled without discovery: "
                "give entry-node or staticnode, or turn discv5-discovery on"
            )
    elif network.cluster == 1:
        yield (
            "cluster 1 is The Waku Network, whose peers refuse messages without an RLN proof: "
            "use the preset twn for it, and another cluster for a network of your own"
        )
    if network.rln_required:
        yield (
            f"the network {network.preset} takes only messages with an RLN proof, which this version "
            "cannot make: the node relays and receives, it does not send"
        )
    yield from service_warnings(resolved)
    yield from discovery_warnings(resolved)
    yield from metrics_warnings(resolved)
    if resolved["store"] and resolved["relay"] and not _static_shards(resolved, network):
        reason = "with shard=none" if resolved["shard"] else "with static sharding and without shard"
        yield f"store archives leased shards only {reason}: say by shard which to stay on"
    if not resolved["relay"]:
        yield from common.without_effect(resolved, ["relay-peer-exchange"], "relay is off")
    if not resolved["websocket-support"]:
        yield from common.without_effect(resolved, ["websocket-port"], "websocket-support is off")
