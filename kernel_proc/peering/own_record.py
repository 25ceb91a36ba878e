"""Our ENR, kept current with the bound and observed addresses, mounted protocols and joined shards."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ipc_schema.config.kernel import KernelConfig
from kernel_proc.discovery.discv5.endpoint import UdpEndpoint
from kernel_proc.discovery.enr_identity import Identity
from kernel_proc.discovery.enr_local import LocalEnr
from kernel_proc.discovery.enr_values import MAX_SHARDS
from kernel_proc.nat.gateway import LocalPort
from kernel_proc.p2p.api import HostEvents, PeerIdentity
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.peering.settings import capabilities
from kernel_proc.peers.known import group_of_address
from kernel_proc.peers.own_addresses import OwnAddresses
from kernel_proc.reachability.dialled import direct_connection
from logos_process.logs import fields

log = logging.getLogger(__name__)

RECORD_FILE = "enr"


class OwnRecord(HostEvents):
    """A host listener. `shards` returns our current shards. Raise OSError (the data directory)."""

    def __init__(
        self, config: KernelConfig, key: NodeKey, host: Libp2pHost, shards: Callable[[], Sequence[int]]
    ) -> None:
        discovery = config.discovery
        self._host = host
        self._cluster = config.network.cluster
        self._shards = shards
        self._announced_shards: tuple[int, ...] | None = None
        self.is_bound = False
        self.addresses = OwnAddresses(
            external=discovery.external_addresses,
            only_external=discovery.only_external,
            external_ip=discovery.external_ip,
            domain=discovery.domain,
            observing=discovery.observed_address,
        )
        self.enr = LocalEnr(
            Identity(key.secret_bytes()),
            Path(config.data_dir) / RECORD_FILE,
            now_ms=time.time_ns() // 1_000_000,
        )
        self.enr.set_capabilities(capabilities(config))

    def bound(self) -> None:
        """Announce the listeners' addresses."""
        self.is_bound = True
        self.addresses.bind(self._host.reachable_addresses())
        self._announce()
        self.shards_changed()

    def _announce(self) -> None:
        self._host.set_announced(self.addresses.announced())
        self.enr.set_addresses(self.addresses.for_record())

    def shards_changed(self) -> bool:
        """Update the shards. Return whether they changed."""
        shards = tuple(sorted(one for one in self._shards() if one < MAX_SHARDS))
        if not self.is_bound or shards == self._announced_shards:
            return False
        self._announced_shards = shards
        self.enr.set_shards(self._cluster, shards)
        return True

    def seen_at(self, endpoint: UdpEndpoint) -> None:
        """Record an address at which discv5 nodes see us."""
        if self.addresses.agreed(endpoint.host):
            log.info("discv5 nodes see us at another address", extra=fields(ip=endpoint.host))
            self._announce()

    def mapped(
        self, ip: str | None, ports: Mapping[LocalPort, int], discv5: Sequence[UdpEndpoint] = ()
    ) -> None:
        """Announce the ports that a router maps now. `discv5`: the bound endpoints."""
        tcp = {port.number: external for port, external in ports.items() if port.protocol == "tcp"}
        with self.enr.batch():
            if self.addresses.map(ip, tcp):
                log.info("mapped ports on the router", extra=fields(ip=ip, ports=len(ports)))
                self._announce()
            if discv5:
                udp = {endpoint.version: endpoint.port for endpoint in discv5}
                udp4 = udp.get(4)
                if udp4 is not None:
                    udp4 = ports.get(LocalPort("udp", udp4), udp4)
                self.enr.set_udp(udp4=udp4, udp6=udp.get(6))

    def relayed(self, addresses: Sequence[str]) -> None:
        """Announce the addresses through relays."""
        self.addresses.relay(addresses)
        self._announce()

    def no_udp(self) -> None:
        """Remove the UDP port: discv5 has stopped."""
        self.enr.set_udp(udp4=None, udp6=None)

    def exchangeable(self) -> bytes | None:
        """Return the record if it contains our capabilities and addresses, else None."""
        if not self.is_bound:
            return None
        record = self.enr.record
        return record.raw if record.capabilities and record.addresses else None

    # --- host events ---

    def peer_identified(self, identity: PeerIdentity) -> None:
        """Record the observed address from identify."""
        if identity.observed_address is None:
            return
        # A peer behind a relay sees the relay, and must not speak for the relay's address group.
        connection = direct_connection(self._host, identity.peer_id)
        if connection is not None and self.addresses.observe(
            group_of_address(connection.address), identity.observed_address
        ):
            ips = ",".join(self.addresses.observed)
            log.info("peers see us at another address", extra=fields(ip=ips))
            self._announce()
