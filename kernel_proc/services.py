"""The service protocols of a node and the clients of other nodes' services: made, mounted, looked at.

Each part has its own module in `kernel_proc.protocols`; what they have in common enters here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from random import Random

import trio

from ipc_schema.config.services import ServiceConfig
from ipc_schema.kernel.records import ProtocolHealth
from kernel_proc.health import NOT_MOUNTED, client_health, service_health
from kernel_proc.metrics import Registry, Sample
from kernel_proc.network import Network
from kernel_proc.protocols.peer_select import PeerRanking, ServicePeers
from kernel_proc.protocols.requests import RequestService

__all__ = ["Services"]


class Services:
    """Made after the network and mounted before it listens: identify must name them to the first peer."""

    def __init__(self, config: ServiceConfig, network: Network, registry: Registry, rng: Random) -> None:
        self._network = network
        self._mounted: list[RequestService] = []
        configured = {"store": config.store_node, "lightpush": config.lightpush_node}
        self.peers = ServicePeers(
            network.host,
            PeerRanking(trio.current_time, rng),
            network.metadata.peer_shards,
            {service: [address] for service, address in configured.items() if address is not None},
        )
        registry.add_source(self._samples)

    def mount(self) -> None:
        """Serve what is configured."""
        for service in self._mounted:
            service.mount()

    def protocols(self) -> list[ProtocolHealth]:
        """Health of every service and client, by nwaku's names."""
        return [*(service_health(name, mounted=False) for name in NOT_MOUNTED)]

    def _client(self, name: str, service: str, protocols: Sequence[str]) -> ProtocolHealth:
        return client_health(name, service, len(self.peers.connected(protocols)))

    def _samples(self) -> Iterable[Sample]:
        for service in self._mounted:
            yield from service.samples()

    def parts(self) -> Iterable[tuple[str, Callable[[], Awaitable[None]]]]:
        """What must run while the node does, by name."""
        return ()
