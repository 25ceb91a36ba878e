"""Translate the configuration into the terms of the peering parts."""

from __future__ import annotations

from collections.abc import Iterable

from ipc_schema.config.addresses import peer_id_in, split_circuit
from ipc_schema.config.kernel import KernelConfig
from kernel_proc.discovery.enr import Enr, EnrError
from kernel_proc.discovery.enr_values import Capability
from kernel_proc.p2p import addresses
from kernel_proc.p2p.api import BadAddress, PeerIdText
from kernel_proc.peers.plan import SERVICES


class PeeringError(ValueError):
    """The configuration contains an invalid node record or list."""


def services_wanted(config: KernelConfig) -> frozenset[str]:
    """Return the services of other nodes that this one may use: without relay, those of a light client;
    store if it runs none, or if its own fetches what it missed; sync if its own store is compared."""
    services = config.services
    wanted = set(SERVICES) - {"sync"} if not config.peers.relay else set()
    if not services.store or services.store_resume:
        wanted.add("store")
    if services.store_sync:
        wanted.add("sync")
    return frozenset(wanted)


def capabilities(config: KernelConfig) -> Capability:
    """Return the capabilities of this node for its ENR."""
    services = config.services
    mounted = {
        Capability.RELAY: config.peers.relay,
        Capability.STORE: services.store,
        Capability.FILTER: services.filter and config.peers.relay,
        Capability.LIGHTPUSH: services.lightpush and config.peers.relay,
        Capability.SYNC: services.store_sync,
    }
    found = Capability(0)
    for bit, there in mounted.items():
        found |= bit if there else Capability(0)
    return found


def operators_peers(config: KernelConfig) -> frozenset[PeerIdText]:
    """Return the operator's peers that are configured with a peer id, and the relays that lead to some."""
    named = (*config.entry_nodes, *config.static_nodes, *config.services.nodes)
    relays = (circuit[0] for circuit in map(split_circuit, named) if circuit is not None)
    return frozenset(filter(None, map(peer_id_in, (*named, *relays))))


def node_records(option: str, texts: Iterable[str]) -> tuple[Enr, ...]:
    """Parse the node records of an option. Raise PeeringError."""
    found = []
    for text in texts:
        try:
            found.append(Enr.from_text(text))
        except EnrError as error:
            raise PeeringError(f"{option}: {text}: {error}") from error
    return tuple(found)


def check_announced(external: Iterable[str]) -> None:
    """Check that further addresses to announce, of whatever transport, have a binary form. Raise
    PeeringError."""
    try:
        for address in external:
            addresses.to_bytes(address)
    except BadAddress as error:
        raise PeeringError(f"ext-multiaddr: {error}") from error
