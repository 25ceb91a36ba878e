"""Node records in and out: what others report about peers, and what we share.

Each origin of reports is a separate source for the peer store, which limits what one source may fill: every
peer that answers peer exchange, every DNS list, discv5 nodes that were merely named, and discv5 nodes that
answered us.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ipc_schema.hello import NetworkInfo
from kernel_proc.discovery.discv5.endpoint import may_relay
from kernel_proc.discovery.discv5.service import Discv5Service
from kernel_proc.discovery.dns_tree import TreeUrl
from kernel_proc.discovery.enr import Enr, EnrError
from kernel_proc.discovery.enr_values import MAX_SHARDS
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Host, PeerIdText
from kernel_proc.peers.known import PeerFacts, PeerOrigin
from kernel_proc.peers.manager import PeerManager
from logos_process.logs import fields

log = logging.getLogger(__name__)

MAX_EXCHANGED: Final = 256
"""Maximum records considered in a peer exchange response."""
PROVEN: Final = 3600.0
"""Seconds for which a connection proves that a peer is reachable."""
SEEDS: Final = 48
"""Nodes of the store offered to a discv5 with an empty table."""
ANSWERED: Final = "discv5, answered"


class PeerSources:
    """Set `discv5` once it exists, because it calls `found` here."""

    discv5: Discv5Service

    def __init__(self, network: NetworkInfo, host: Host, manager: PeerManager, registry: Registry) -> None:
        self._network = network
        self._host = host
        self._manager = manager
        self._registry = registry
        self._unusable = registry.counter("discovery_records_refused")
        self._shardless = registry.counter("discv5_errors", type="NoShardInfo")
        self._listed = registry.counter("dnsdisc_discovered")
        self._unknown = registry.counter("px_peers_received_unknown")

    # --- in ---

    def learn(self, record: Enr, origin: PeerOrigin, source: str = "") -> bool:
        """Process one record. Return whether it was useful."""
        shards = record.shards_among(self._network.shard_count or MAX_SHARDS)
        facts = PeerFacts(
            record.raw,
            max(1, record.seq),
            int(record.capabilities or 0),
            cluster=None if shards is None else shards.cluster,
            shards=() if shards is None else shards.possible,
        )
        return self._manager.learn(record.peer_id, record.addresses, origin, facts, source=source)

    def learn_records(self, records: Iterable[Enr], origin: PeerOrigin, source: str = "") -> int:
        """Process records from outside discv5. Return how many were useful. Those with discv5 also enter
        its table."""
        used = 0
        for record in records:
            used += record.capabilities is not None and self.learn(record, origin, source)
            self.discv5.add_record(record)
        return used

    def found(self, record: Enr) -> None:
        """Process a wanted node that discv5 met."""
        self._manager.sign_of_life()
        self._count_shards(record)
        self.learn(record, PeerOrigin.DISCV5, ANSWERED if self.discv5.has_answered(record.node_id) else "")

    def _count_shards(self, record: Enr) -> None:
        shards = record.shards_among(self._network.shard_count or MAX_SHARDS)
        if shards is None:
            self._shardless.add()
            return
        for shard in shards.possible:
            self._registry.counter("discv5_discovered_per_shard", shard=str(shard)).add()

    def look_again(self, wanted: Callable[[Enr], bool]) -> None:
        """Re-evaluate the known discv5 nodes after a change of what is wanted."""
        for node in self.discv5.nodes():
            if node.verified and wanted(node.record):
                self.learn(node.record, PeerOrigin.DISCV5, ANSWERED)

    def listed(self, record: Enr, url: TreeUrl) -> None:
        """Process a node from a DNS list."""
        self._manager.sign_of_life()
        self._listed.add()
        self.learn_records((record,), PeerOrigin.DNS, f"list {url}")

    def exchanged(self, peer_id: PeerIdText, records: Sequence[bytes]) -> None:
        """Process the unverified records of a peer exchange response."""
        reporter = next((c.ip for c in self._host.connections() if c.peer_id == peer_id), None)
        good = []
        for raw in records:
            try:
                record = Enr.from_bytes(raw)
            except EnrError as error:
                self._unusable.add()
                log.debug("invalid record from peer exchange", extra=fields(peer=peer_id, reason=str(error)))
                continue
            if _may_report(reporter, record):
                good.append(record)
            else:
                self._unusable.add()
        known = {peer.peer_id for peer in self._manager.store}
        self._unknown.add(sum(one.peer_id not in known for one in good))
        used = self.learn_records(good, PeerOrigin.PEER_EXCHANGE, f"peer exchange with {peer_id}")
        log.debug("peer exchange", extra=fields(peer=peer_id, records=len(records), used=used))

    def seed(self) -> None:
        """Offer discv5 the nodes of the store, most recently reached first: its table starts empty, and
        yesterday's boot nodes may be gone."""
        known = [peer for peer in self._manager.store if peer.enr]
        known.sort(key=lambda peer: (-peer.last_success, peer.failures))
        for peer in known[:SEEDS]:
            try:
                self.discv5.add_record(Enr.from_bytes(peer.enr))
            except EnrError as error:  # the file was edited
                log.debug(
                    "invalid record in the peer store", extra=fields(peer=peer.peer_id, reason=str(error))
                )

    # --- out ---

    def exchangeable(self) -> list[bytes]:
        """Return the records to share: of peers of our cluster that were reached recently."""
        cluster = self._network.cluster
        since = self._manager.now() - PROVEN
        found = {
            peer.peer_id: peer.enr
            for peer in self._manager.store
            if peer.enr
            and peer.cluster in (None, cluster)
            and (peer.last_success >= since or self._host.is_connected(peer.peer_id))
        }
        for node in self.discv5.nodes():
            if len(found) >= MAX_EXCHANGED:
                break
            record = node.record
            shards = record.shards_among(self._network.shard_count or MAX_SHARDS)
            if node.verified and record.capabilities and shards and shards.cluster == cluster:
                found[record.peer_id] = record.raw
        return list(found.values())[:MAX_EXCHANGED]


def _may_report(reporter: str | None, record: Enr) -> bool:
    """Return whether a record may be accepted from `reporter` (its IP address, None if it disconnected): a
    remote peer must not direct us to hosts in our own network."""
    hosts = {one for one in (record.ip4, record.ip6) if one is not None}
    for address in record.addresses:
        _, kind, host, *_ = address.split("/", 3)
        if kind in ("ip4", "ip6"):
            hosts.add(host)
    if reporter is None:
        return all(ipaddress.ip_address(host).is_global for host in hosts)
    return all(may_relay(host, reporter) for host in hosts)
