"""Node records in and out: what others report of peers, and what we pass on.

Each source is a teller of its own to the peer store, which bounds what one teller may fill: every peer that
answers peer exchange, every list in the DNS, discv5 as far as nodes were only named, and as far as they
answered us.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ipc_schema.hello import NetworkInfo
from kernel_proc.discovery.discv5 import Discv5Service
from kernel_proc.discovery.discv5.endpoint import may_relay
from kernel_proc.discovery.dns_tree import TreeUrl
from kernel_proc.discovery.enr import Enr, EnrError
from kernel_proc.discovery.enr_values import MAX_SHARDS
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Host, PeerIdText
from kernel_proc.peers.known import PeerOrigin
from kernel_proc.peers.manager import PeerManager
from logos_process.logs import fields

__all__ = ["PeerSources"]

log = logging.getLogger(__name__)

MAX_EXCHANGED: Final = 256
"""Records to choose from in an answer of peer exchange."""
PROVEN: Final = 3600.0
"""Seconds for which a connection proves that a peer can be reached."""
SEEDS: Final = 48
"""Nodes of the store offered to a discv5 with an empty table."""
ANSWERED: Final = "discv5, answered"


class PeerSources:
    """`discv5` is put in when it is made, since it calls `found` here."""

    discv5: Discv5Service

    def __init__(self, network: NetworkInfo, host: Host, manager: PeerManager, registry: Registry) -> None:
        self._network = network
        self._host = host
        self._manager = manager
        self._unusable = registry.counter("discovery_records_refused")

    # --- in ---

    def learn(self, record: Enr, origin: PeerOrigin, source: str = "") -> bool:
        """One record; whether it is of use."""
        shards = record.shards_among(self._network.shard_count or MAX_SHARDS)
        return self._manager.learn(
            record.peer_id,
            record.addresses,
            origin,
            enr=record.raw,
            seq=max(1, record.seq),
            capabilities=int(record.capabilities or 0),
            cluster=None if shards is None else shards.cluster,
            shards=() if shards is None else shards.possible,
            source=source,
        )

    def learn_records(self, records: Iterable[Enr], origin: PeerOrigin, source: str = "") -> int:
        """Records from elsewhere: how many were of use. Those that speak discv5 enter its table too."""
        used = 0
        for record in records:
            used += record.capabilities is not None and self.learn(record, origin, source)
            self.discv5.add_record(record)
        return used

    def found(self, record: Enr) -> None:
        """discv5 met a node that is wanted."""
        self._manager.sign_of_life()
        self.learn(record, PeerOrigin.DISCV5, ANSWERED if self.discv5.has_answered(record.node_id) else "")

    def look_again(self, wanted: Callable[[Enr], bool]) -> None:
        """What is wanted has changed: among the nodes that discv5 knows may be some that were not."""
        for node in self.discv5.nodes():
            if node.verified and wanted(node.record):
                self.learn(node.record, PeerOrigin.DISCV5, ANSWERED)

    def listed(self, record: Enr, url: TreeUrl) -> None:
        """A list in the DNS has this node."""
        self._manager.sign_of_life()
        self.learn_records((record,), PeerOrigin.DNS, f"list {url}")

    def exchanged(self, peer_id: PeerIdText, records: Sequence[bytes]) -> None:
        """Take the unverified records of an answer of peer exchange."""
        teller = next((c.ip for c in self._host.connections() if c.peer_id == peer_id), None)
        good = []
        for raw in records:
            try:
                record = Enr.from_bytes(raw)
            except EnrError as error:
                self._unusable.add()
                log.debug("record of peer exchange", extra=fields(peer=peer_id, reason=str(error)))
                continue
            if _may_report(teller, record):
                good.append(record)
            else:
                self._unusable.add()
        used = self.learn_records(good, PeerOrigin.PEER_EXCHANGE, f"peer exchange with {peer_id}")
        log.debug("peer exchange", extra=fields(peer=peer_id, records=len(records), used=used))

    def seed(self) -> None:
        """Offer discv5 the nodes of the store, those last reached first: its table begins empty, and the boot
        nodes of yesterday may be gone."""
        known = [peer for peer in self._manager.store if peer.enr]
        known.sort(key=lambda peer: (-peer.last_success, peer.failures))
        for peer in known[:SEEDS]:
            try:
                self.discv5.add_record(Enr.from_bytes(peer.enr))
            except EnrError as error:  # the file was edited
                log.debug("record in the peer store", extra=fields(peer=peer.peer_id, reason=str(error)))

    # --- out ---

    def exchangeable(self) -> list[bytes]:
        """Records that we may give away: of peers of our cluster that have been reached of late."""
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


def _may_report(teller: str | None, record: Enr) -> bool:
    """Return whether a record may be believed: a stranger must not lead us to neighbours in our own network.
    `teller`: its IP address, None if
    it has gone meanwhile."""
    hosts = {one for one in (record.ip4, record.ip6) if one is not None}
    for address in record.addresses:
        _, kind, host, *_ = address.split("/", 3)
        if kind in ("ip4", "ip6"):
            hosts.add(host)
    if teller is None:
        return all(ipaddress.ip_address(host).is_global for host in hosts)
    return all(may_relay(host, teller) for host in hosts)
