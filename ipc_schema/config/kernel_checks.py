"""Checks of the kernel's options against each other, and what follows from several of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from ipc_schema.config import common
from ipc_schema.config.addresses import UndialableError, is_multiaddr, parse_multiaddr, split_circuit
from ipc_schema.config.discovery import discovery_warnings
from ipc_schema.config.kinds import ALL, NONE
from ipc_schema.config.options import PortUse, Resolved, refuse_port_clashes
from ipc_schema.config.presets import Preset
from ipc_schema.config.services import SERVICE_NODES, service_warnings
from ipc_schema.hello import NetworkInfo

if TYPE_CHECKING:
    from ipc_schema.config.kernel import KernelOptions


class TlsFiles(NamedTuple):
    """Paths of PEM files."""

    certificate: str
    key: str


def static_shards(resolved: Resolved[KernelOptions], network: NetworkInfo) -> tuple[int, ...]:
    """Return the configured shards.

    A node of a known network, and one that archives, subscribes to all of them by default, as nwaku does
    under autosharding: it would otherwise be of no use to the network, and its archive would have holes.
    """
    named = resolved.options.network.shard
    if not resolved.options.peers.relay or NONE in named:
        return ()
    if ALL in named or (not named and (network.preset or resolved.options.services.store)):
        return tuple(range(network.shard_count))
    return _numbers(named)


def _numbers(named: Iterable[int | str]) -> tuple[int, ...]:
    return tuple(one for one in named if isinstance(one, int))


def check_shards(resolved: Resolved[KernelOptions], network: NetworkInfo) -> None:
    """Check the options about shards against each other. Raises `ConfigError`."""
    protected = resolved.options.network.protected_shard
    named = resolved.options.network.shard
    if len(named) > 1 and (ALL in named or NONE in named):
        raise resolved.refuse("shard", f"{ALL} and {NONE} stand alone")
    if ALL in named and not resolved.options.peers.relay:
        raise resolved.refuse("shard", "needs relay, which is off")
    if ALL in named and not network.shard_count:
        raise resolved.refuse("shard", f"{ALL} needs num-shards-in-network: with static sharding name each")
    numbers = {"shard": _numbers(named), "protected-shard": tuple(item.shard for item in protected)}
    for key, shards in numbers.items():
        if shards and not resolved.options.peers.relay:
            raise resolved.refuse(key, "needs relay, which is off")
        for shard in shards:
            if network.shard_count and shard >= network.shard_count:
                raise resolved.refuse(
                    key, f"shard {shard} does not exist: the network has {network.shard_count} (from 0)"
                )
    if len(set(numbers["protected-shard"])) < len(protected):
        raise resolved.refuse("protected-shard", "two keys for one shard")


def ports(resolved: Resolved[KernelOptions]) -> tuple[int, int | None, int]:
    """Return the ports of TCP, WebSocket and UDP, shifted and checked for clashes."""
    listening = resolved.options.listening

    def shifted(key: str, port: int) -> int:
        return common.shifted(resolved, key, port, listening.ports_shift)

    tcp = shifted("tcp-port", listening.tcp_port)
    websocket = shifted("websocket-port", listening.websocket_port) if listening.websocket_support else None
    uses = [PortUse("tcp-port", listening.listen_address, tcp)]
    if websocket is not None:
        uses.append(PortUse("websocket-port", listening.listen_address, websocket))
    names = ("ipc-events", "ipc-requests", "ipc-control")
    endpoints = common.tcp_uses({name: resolved.value(name) for name in names})
    refuse_port_clashes((*uses, *endpoints))
    return tcp, websocket, shifted("discv5-udp-port", resolved.options.discovery.discv5_udp_port)


def websocket_tls(resolved: Resolved[KernelOptions]) -> TlsFiles | None:
    """Return the files of a secure WebSocket listener, None without one. Raises `ConfigError`."""
    listening = resolved.options.listening
    if not (listening.websocket_support and listening.websocket_secure_support):
        return None
    certificate, key = listening.websocket_secure_cert_path, listening.websocket_secure_key_path
    if certificate is None or key is None:
        needed = "websocket-secure-cert-path and websocket-secure-key-path"
        raise resolved.refuse("websocket-secure-support", f"needs {needed}")
    return TlsFiles(certificate, key)


def _undialable(resolved: Resolved[KernelOptions]) -> Iterable[str]:
    """Return a warning for each configured peer whose transport is not spoken here."""
    for key in ("staticnode", "entry-node", *SERVICE_NODES):
        value = resolved.value(key)
        for address in value if isinstance(value, tuple) else (value,):
            if key == "staticnode" and split_circuit(address):
                continue  # dialled through its relay
            if address is not None and is_multiaddr(address):
                try:
                    parse_multiaddr(address)
                except UndialableError as error:
                    yield f"{key} is skipped: {error}"


def kernel_warnings(
    resolved: Resolved[KernelOptions], preset: Preset | None, network: NetworkInfo
) -> Iterable[str]:
    """Return the warnings to log once at start."""
    if preset is not None:
        for key, given in (
            ("cluster-id", preset.cluster),
            ("num-shards-in-network", preset.shard_count),
            ("max-msg-size", preset.max_message_size),
        ):
            if resolved.value(key) != given:
                source = resolved.source_of(key).source()
                yield f"{key} {resolved.value(key)} ({source}) overrides {given} of the preset {preset.name}"
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
    yield from _undialable(resolved)
    yield from service_warnings(resolved)
    yield from discovery_warnings(resolved)
    if (
        resolved.options.services.store
        and resolved.options.peers.relay
        and not static_shards(resolved, network)
    ):
        reason = (
            "with shard=none" if resolved.options.network.shard else "with static sharding and without shard"
        )
        yield f"store archives leased shards only {reason}: say by shard which to stay on"
    if not resolved.options.peers.relay:
        yield from common.without_effect(resolved, ["relay-peer-exchange"], "relay is off")
    if not resolved.options.listening.websocket_support:
        options = ["websocket-port", "websocket-secure-support"]
        yield from common.without_effect(resolved, options, "websocket-support is off")
    elif not resolved.options.listening.websocket_secure_support:
        paths = ["websocket-secure-key-path", "websocket-secure-cert-path"]
        yield from common.without_effect(resolved, paths, "websocket-secure-support is off")
