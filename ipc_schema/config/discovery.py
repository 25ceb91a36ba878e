"""Options of discovery and peer management: how peers are found and kept, and which addresses are
announced."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, ClassVar, Final

from ipc_schema.config import common
from ipc_schema.config.addresses import check_enr, check_enrtree
from ipc_schema.config.kinds import BOOLEAN, MULTIADDR, PORT, Kind, integer
from ipc_schema.config.options import OptionSection, Origin, Resolved, option

if TYPE_CHECKING:
    from ipc_schema.config.kernel import KernelOptions


MAX_STORE: Final = 5000
"""Size of the peer store unless configured otherwise."""


@dataclass(frozen=True, slots=True)
class NameServer:
    """A DNS server."""

    ip: str
    port: int = 53

    def __str__(self) -> str:
        if self.port == 53:
            return self.ip
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


def _parse_name_server(raw: object) -> NameServer:
    text = raw.strip() if isinstance(raw, str) else ""
    match = re.fullmatch(r"\[([0-9a-fA-F:.]+)\]:([0-9]{1,5})|([0-9.]+):([0-9]{1,5})|([0-9a-fA-F:.]+)", text)
    try:
        if match is None:
            raise ValueError
        ip = str(ip_address(match[1] or match[3] or match[5]))
        port = int(match[2] or match[4] or 53)
        if not 0 < port <= 65535:
            raise ValueError
    except ValueError:
        raise ValueError(f"{raw!r} is not the IP address of a DNS server, with or without :port") from None
    return NameServer(ip, port)


def _parse_ratio(raw: object) -> str:
    match = re.fullmatch(r"([0-9]{1,3})\s*:\s*([0-9]{1,3})", raw.strip()) if isinstance(raw, str) else None
    if match is None or int(match[1]) + int(match[2]) != 100:
        raise ValueError(f"{raw!r} is not <relay>:<service> in percent, such as 50:50")
    return f"{int(match[1])}:{int(match[2])}"


def _parse_nat(raw: object) -> str:
    text = raw.strip() if isinstance(raw, str) else ""
    if text in ("any", "none", "upnp", "pmp"):
        return text
    try:
        if not text.startswith("extip:"):
            raise ValueError
        return f"extip:{ip_address(text.removeprefix('extip:'))}"
    except ValueError:
        raise ValueError(f"{raw!r} is none of any, none, upnp, pmp, extip:<IP address>") from None


_MAPPING: Final = {"any": ("upnp", "pmp"), "upnp": ("upnp",), "pmp": ("pmp",)}
# RFC 1123 §2.1: letters, digits, inner hyphens; a numeric last label would read as an IP address.
_LABEL: Final = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN: Final = re.compile(rf"(?=.{{1,253}}$)({_LABEL}\.)*(?![0-9]+$){_LABEL}")


def _parse_domain(raw: object) -> str:
    text = raw.strip().rstrip(".") if isinstance(raw, str) else ""
    if _DOMAIN.fullmatch(text) is None:
        raise ValueError(f"{raw!r} is not a domain name")
    return text


def _parse_enr(raw: object) -> str:
    text = raw.strip() if isinstance(raw, str) else ""
    check_enr(text)
    return text


def _parse_enrtree(raw: object) -> str:
    text = raw.strip() if isinstance(raw, str) else ""
    check_enrtree(text)
    return text


ENR: Final = Kind("enr", _parse_enr)
ENRTREE: Final = Kind("enrtree URL", _parse_enrtree)
NAME_SERVER: Final = Kind("DNS server", _parse_name_server, str)
RATIO: Final = Kind("ratio", _parse_ratio)
NAT: Final = Kind("any, none, upnp, pmp or extip:<IP>", _parse_nat)
DOMAIN: Final = Kind("domain name", _parse_domain)

MIN_RELAY_CONNECTIONS: Final = 8
"""D_high of the relay's meshes: with fewer relay connections than a mesh may hold, relay and peer manager
would evict each other's peers (nwaku refuses it too)."""


@dataclass(frozen=True, kw_only=True)
class DiscoveryOptions(OptionSection):
    """Discovery and addresses."""

    TITLE: ClassVar[str] = "Discovery and addresses"

    discv5_discovery: bool = option(
        BOOLEAN,
        "find peers by discv5; on under presets that use it, and with cluster-id or entry-node",
        default=False,
    )
    discv5_udp_port: int = option(PORT, "discv5 over UDP; 0: automatic", default=9000)
    discv5_bootstrap_node: tuple[str, ...] = option(
        ENR, "node record (enr:…) to bootstrap discv5; added to those of the preset", repeatable=True
    )
    dns_discovery_url: tuple[str, ...] = option(
        ENRTREE,
        "signed list of nodes in the DNS (EIP-1459), enrtree://<key>@<domain>; the same as an entry-node",
        repeatable=True,
    )
    dns_addrs_name_server: tuple[NameServer, ...] = option(
        NAME_SERVER,
        "DNS server for lists of nodes: <IP address>[:<port>]",
        repeatable=True,
        unset="those of the system",
    )
    peer_exchange_discovery: bool | None = option(
        BOOLEAN,
        "use peer exchange while there are too few peers",
        unset="on under a preset, with discv5-discovery or peer-exchange-node, and without relay",
    )
    peer_persistence: bool = option(BOOLEAN, "keep known peers in the data directory", default=True)
    peer_store_capacity: int | None = option(
        integer(1, 1_000_000), "size of the peer store", unset=f"5 x max-connections, {MAX_STORE} at most"
    )
    relay_service_ratio: str = option(
        RATIO,
        "how connections are split between relay peers (8 at least, a third dialled) and service peers",
        default="50:50",
    )
    nat: str = option(
        NAT,
        "our external address: upnp, pmp: that of the router, on which our ports are mapped by UPnP or "
        "NAT-PMP, else the one other nodes observe; any: try both; extip:<IP>: this one; none: unknown",
        default="any",
    )
    relay_client: bool = option(
        BOOLEAN,
        "if other nodes cannot dial this one, be dialled through circuit relays among its peers",
        default=False,
    )
    ext_multiaddr: tuple[str, ...] = option(MULTIADDR, "further address to announce", repeatable=True)
    ext_multiaddr_only: bool = option(BOOLEAN, "announce nothing but ext-multiaddr", default=False)
    dns4_domain_name: str | None = option(DOMAIN, "domain name of this host, announced with its ports")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryConfig:
    """Typed configuration of discovery and the peer manager."""

    discv5: bool
    discv5_port: int
    """UDP; already shifted. 0: automatic."""
    discv5_boot_nodes: tuple[str, ...]
    """`enr:` texts, those of the preset first."""
    entry_records: tuple[str, ...]
    """The `enr:` texts of entry-node: they are dialled, and boot nodes of discv5 too."""
    dns_trees: tuple[str, ...]
    """`enrtree:` URLs of dns-discovery-url and entry-node."""
    name_servers: tuple[NameServer, ...]
    """Empty: the system's."""
    peer_exchange: bool
    """Ask peers for peers."""
    persistent: bool
    store_capacity: int
    relay_connections: int
    """Share of all connections for relay peers; the rest is for service peers. 0: relay is off."""
    external_ip: str | None
    observed_address: bool
    """Whether addresses observed by other nodes may be announced."""
    relay_client: bool
    port_mapping: tuple[str, ...]
    """How a router may be asked to map our ports, in this order: upnp, pmp."""
    external_addresses: tuple[str, ...]
    only_external: bool
    domain: str | None


def discovery_config(resolved: Resolved[KernelOptions], *, port: int, preset: bool) -> DiscoveryConfig:
    """Build the discovery part of a resolved configuration. `port`: the shifted UDP port."""
    options = resolved.options.discovery
    entries: tuple[str, ...] = resolved.options.network.entry_node
    enrs = tuple(one for one in entries if one.startswith("enr:"))
    trees = tuple(one for one in entries if one.startswith("enrtree:"))
    asked: bool | None = options.peer_exchange_discovery
    by_itself = (
        preset
        # an entry node known by its multiaddr can supply records to bootstrap discv5
        or options.discv5_discovery
        or not resolved.options.peers.relay
        or resolved.options.services.peer_exchange_node is not None
    )
    capacity: int | None = options.peer_store_capacity
    nat: str = options.nat
    if options.ext_multiaddr_only and not options.ext_multiaddr:
        raise resolved.refuse("ext-multiaddr-only", "there is no ext-multiaddr")
    return DiscoveryConfig(
        discv5=_discv5(resolved),
        discv5_port=port,
        discv5_boot_nodes=options.discv5_bootstrap_node,
        entry_records=enrs,
        dns_trees=tuple(dict.fromkeys((*trees, *options.dns_discovery_url))),
        name_servers=options.dns_addrs_name_server,
        peer_exchange=by_itself if asked is None else asked,
        persistent=options.peer_persistence,
        store_capacity=min(5 * resolved.options.peers.max_connections, MAX_STORE)
        if capacity is None
        else capacity,
        relay_connections=_relay_connections(resolved) if resolved.options.peers.relay else 0,
        external_ip=nat.removeprefix("extip:") if nat.startswith("extip:") else None,
        observed_address=nat in _MAPPING,
        relay_client=options.relay_client,
        port_mapping=() if options.ext_multiaddr_only else _MAPPING.get(nat, ()),
        external_addresses=options.ext_multiaddr,
        only_external=options.ext_multiaddr_only,
        domain=options.dns4_domain_name,
    )


def _relay_connections(resolved: Resolved[KernelOptions]) -> int:
    """Return the relay's share of all connections. Raises ConfigError if no mesh can live on it."""
    total: int = resolved.options.peers.max_connections
    ratio: str = resolved.options.discovery.relay_service_ratio
    percent = int(ratio.partition(":")[0])
    part = -(-total * percent // 100)
    if part >= MIN_RELAY_CONNECTIONS:
        return part
    # The smallest x with ceil(x * y / 100) >= n is the one just above 100 * (n - 1) / y.
    below = 100 * (MIN_RELAY_CONNECTIONS - 1)
    ways = [f"max-connections to {below // percent + 1}"] if percent else []
    if total >= MIN_RELAY_CONNECTIONS:
        least = below // total + 1
        ways.append(f"relay-service-ratio to {least}:{100 - least}")
    if not ways:
        ways.append(f"max-connections to {MIN_RELAY_CONNECTIONS} and relay-service-ratio to 100:0")
    raise resolved.refuse(
        "max-connections",
        f"{total}, of which relay-service-ratio {ratio} leaves {part} for relay, where a mesh may need "
        f"{MIN_RELAY_CONNECTIONS}: raise {' or '.join(ways)}, or turn relay off",
    )


def _discv5(resolved: Resolved[KernelOptions]) -> bool:
    """Return whether discv5 runs: a preset's discv5 only does on a public address, since loopback reaches no
    other node."""
    by_preset = resolved.source_of("discv5-discovery").origin is Origin.PRESET
    loopback = ip_address(resolved.options.listening.listen_address).is_loopback
    return resolved.options.discovery.discv5_discovery and not (by_preset and loopback)


def discovery_warnings(resolved: Resolved[KernelOptions]) -> Iterable[str]:
    """Return the warnings to log once at start."""
    if not resolved.options.discovery.discv5_discovery:
        yield from common.without_effect(resolved, ("discv5-udp-port",), "discv5-discovery is off")
    if not resolved.options.discovery.dns_discovery_url and not any(
        map(_is_tree, resolved.options.network.entry_node)
    ):
        yield from common.without_effect(resolved, ("dns-addrs-name-server",), "there is no enrtree: URL")


def _is_tree(entry: str) -> bool:
    return entry.startswith("enrtree:")
