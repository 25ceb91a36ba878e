"""The connected peers and what is known about each: one record per peer.

A host listener. One observer is notified of changes as they happen; records are built on demand.
"""

from __future__ import annotations

import logging
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ipc_schema.kernel.records import PeerChange, PeerRecord
from kernel_proc.metrics import Sample
from kernel_proc.p2p.api import EndCause, PeerConnection, PeerIdentity, PeerIdText
from kernel_proc.relay.service import RelayService
from logos_process.logs import fields

log = logging.getLogger(__name__)

MAX_AGENTS: Final = 32
"""Maximum agents with their own metric label: peers choose the strings, so their number must be bounded."""
MAX_TEXT: Final = 256
MAX_PROTOCOLS: Final = 64
MAX_SHARDS: Final = 1024


@dataclass(slots=True, eq=False)
class _Entry:
    connection: PeerConnection
    identity: PeerIdentity | None = None
    cluster: int | None = None
    shards: tuple[int, ...] = ()


class PeerBook:
    """Records of the connected peers.

    `changed(change, record)` is called for each peer that joins, leaves, or gets new details. `clock` is the
    clock of `PeerConnection.since`, in seconds.
    """

    def __init__(self, clock: Callable[[], float], changed: Callable[[PeerChange, PeerRecord], None]) -> None:
        self._clock = clock
        self._changed = changed
        self.relay: RelayService | None = None
        """The source of mesh membership and scores; without it, records have none."""
        self._entries: dict[PeerIdText, _Entry] = {}
        self._origins: dict[PeerIdText, str] = {}

    def __len__(self) -> int:
        return len(self._entries)

    # --- host events ---

    def peer_connected(self, connection: PeerConnection) -> None:
        self._entries[connection.peer_id] = _Entry(connection)
        log.info(
            "peer connected",
            extra=fields(
                peer=connection.peer_id, address=connection.address, direction=str(connection.direction)
            ),
        )
        self._notify(PeerChange.JOINED, connection.peer_id)

    def peer_identified(self, identity: PeerIdentity) -> None:
        """Add what the peer said in identify."""
        entry = self._entries.get(identity.peer_id)
        if entry is not None and entry.identity != identity:
            entry.identity = identity
            self._notify(PeerChange.CHANGED, identity.peer_id)

    def peer_disconnected(self, peer_id: PeerIdText, reason: str, cause: EndCause = EndCause.OTHER) -> None:  # noqa: ARG002 - HostEvents
        """Remove a peer. Its origin is forgotten unless it is a configured peer."""
        if peer_id in self._entries:
            log.info("peer disconnected", extra=fields(peer=peer_id, reason=reason))
            self._notify(PeerChange.LEFT, peer_id)
            del self._entries[peer_id]
            if self._origins.get(peer_id) != "static":
                self._origins.pop(peer_id, None)

    # --- updates by other parts ---

    def set_metadata(self, peer_id: PeerIdText, cluster: int, shards: Iterable[int]) -> None:
        """Store the cluster and shards from a peer's metadata."""
        entry = self._entries.get(peer_id)
        known = tuple(sorted(set(shards))[:MAX_SHARDS])
        if entry is not None and (entry.cluster, entry.shards) != (cluster, known):
            entry.cluster, entry.shards = cluster, known
            self._notify(PeerChange.CHANGED, peer_id)

    def set_origin(self, peer_id: PeerIdText, origin: str) -> None:
        """Store how the node learned of the peer. The first origin is kept, but `static` overrides any
        other."""
        held = self._origins.get(peer_id)
        if held is None or (origin == "static" and held != "static"):
            self._origins[peer_id] = origin
            if peer_id in self._entries:
                self._notify(PeerChange.CHANGED, peer_id)

    # --- queries ---

    def record(self, peer_id: PeerIdText) -> PeerRecord | None:
        entry = self._entries.get(peer_id)
        return None if entry is None else self._record(peer_id, entry)

    def records(self) -> list[PeerRecord]:
        return [self._record(peer_id, entry) for peer_id, entry in self._entries.items()]

    def _notify(self, change: PeerChange, peer_id: PeerIdText) -> None:
        self._changed(change, self._record(peer_id, self._entries[peer_id]))

    def _record(self, peer_id: PeerIdText, entry: _Entry) -> PeerRecord:
        connection, identity, relay = entry.connection, entry.identity, self.relay
        score = relay.score(peer_id) if relay else None
        topics = relay.subscriptions() if relay else ()
        return PeerRecord(
            peer_id=peer_id,
            address=connection.address,
            direction=str(connection.direction),
            connected_ms=max(0, int((self._clock() - connection.since) * 1000)),
            agent=identity.agent[:MAX_TEXT] if identity else "",
            protocols=tuple(p[:MAX_TEXT] for p in identity.protocols[:MAX_PROTOCOLS]) if identity else (),
            cluster=entry.cluster,
            shards=entry.shards,
            origin=self._origins.get(peer_id, str(connection.direction)),
            score=None if score is None else round(score.total, 3),
            mesh=tuple(topic for topic in topics if relay and peer_id in relay.mesh_peers(topic)),
        )

    # --- metrics ---

    def samples(self, protocols: Sequence[str]) -> Iterable[Sample]:
        """Yield peers by direction and protocol, by shard and by agent."""
        by_protocol: Tally[tuple[str, str]] = Tally()
        by_shard: Tally[int] = Tally()
        by_agent: Tally[str] = Tally()
        for entry in self._entries.values():
            direction = str(entry.connection.direction)
            carried = entry.identity.protocols if entry.identity else ()
            by_protocol.update((direction, protocol) for protocol in protocols if protocol in carried)
            by_shard.update(entry.shards)
            by_agent[entry.identity.agent[:64] if entry.identity else ""] += 1
        for (direction, protocol), count in by_protocol.items():
            yield "connected_peers", {"direction": direction, "protocol": protocol}, count
        for shard, count in sorted(by_shard.items()):
            yield "connected_peers_per_shard", {"shard": str(shard)}, count
        common = by_agent.most_common(MAX_AGENTS)
        for agent, count in common:
            yield "connected_peers_per_agent", {"agent": agent}, count
        rest = sum(by_agent.values()) - sum(count for _, count in common)
        if rest:
            yield "connected_peers_per_agent", {"agent": "other"}, rest
