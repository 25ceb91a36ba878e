"""The node table: k-buckets by distance from us, with limits per address group (discv5-theory, Node Table).

Distances are logarithmic: 256 minus the number of leading bits that two node ids share; half of all nodes are
at 256, a quarter at 255 and so on. A bucket holds the nodes of one distance, least recently seen first, plus
replacements for those that disappear.
"""

from __future__ import annotations

import random as random_module
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from kernel_proc.discovery.discv5.endpoint import NodeContact, group_of, is_loopback
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.enr import Enr
from kernel_proc.token_buckets import LruDict


def distance(one: bytes, other: bytes) -> int:
    """Return the XOR of two node ids as a number."""
    return int.from_bytes(one, "big") ^ int.from_bytes(other, "big")


def log_distance(one: bytes, other: bytes) -> int:
    """Return the logarithmic distance: 0 for the same node, otherwise 1 to 256."""
    return distance(one, other).bit_length()


class Added(Enum):
    """The outcome of offering a record to the table."""

    NEW = auto()
    UPDATED = auto()
    KNOWN = auto()
    """This record or a newer one is already in the table."""
    REPLACEMENT = auto()
    """The bucket is full; the node became a replacement."""
    LIMITED = auto()
    """Too many nodes of the same address group."""
    BANNED = auto()
    OURSELVES = auto()


@dataclass(slots=True, eq=False, repr=False)
class Node:
    """A node in the table."""

    record: Enr
    contact: NodeContact
    verified: bool = False
    """It has answered us at this endpoint. Only verified nodes are shared with others."""
    alive: bool = False
    """It has proven to be alive, if only by its own request; others were merely named to us."""
    checked: bool = False
    """A liveness check was sent to this endpoint."""
    failures: int = 0
    """Consecutive unanswered requests."""
    seen: float = float("-inf")
    """Time of its last response."""

    def __repr__(self) -> str:
        host, port = self.contact.endpoint
        return f"Node({self.contact.node_id.hex()[:8]}… at {host}:{port})"


@dataclass(slots=True, eq=False)
class _Bucket:
    nodes: dict[bytes, Node] = field(default_factory=dict)
    """In order of `seen`."""
    replacements: dict[bytes, Node] = field(default_factory=dict)
    refreshed_at: float = float("-inf")


class Table:
    """256 buckets of at most (bucket_size + replacements) nodes each."""

    def __init__(self, node_id: bytes, params: Params) -> None:
        self.node_id = node_id
        self._params = params
        self._buckets: dict[int, _Bucket] = {}
        self._groups: Counter[str] = Counter()
        self._bans: LruDict[bytes, float] = LruDict(params.bans)

    # -- queries ----------------------------------------------

    def get(self, node_id: bytes) -> Node | None:
        """Return a node of the table, but not a replacement."""
        bucket = self._buckets.get(log_distance(self.node_id, node_id))
        return None if bucket is None else bucket.nodes.get(node_id)

    def nodes(self) -> list[Node]:
        """Return all nodes without replacements."""
        return [node for bucket in self._buckets.values() for node in bucket.nodes.values()]

    def __len__(self) -> int:
        return sum(len(bucket.nodes) for bucket in self._buckets.values())

    @property
    def verified(self) -> int:
        """Number of nodes that have answered us."""
        return sum(node.verified for node in self.nodes())

    @property
    def replacements(self) -> int:
        """Number of replacements."""
        return sum(len(bucket.replacements) for bucket in self._buckets.values())

    def closest(self, target: bytes) -> list[Node]:
        """Return all nodes, verified or not, closest to a node id first."""
        return sorted(self.nodes(), key=lambda node: distance(node.contact.node_id, target))

    def at_distances(self, distances: Iterable[int], limit: int) -> list[Node]:
        """Return verified nodes at these distances from us, most recently seen first."""
        found: list[Node] = []
        for at in dict.fromkeys(distances):
            if (bucket := self._buckets.get(at)) is not None:
                found += [node for node in reversed(bucket.nodes.values()) if node.verified]
        return found[:limit]

    # -- changes ----------------------------------------------

    def add(self, record: Enr, contact: NodeContact, now: float, *, alive: bool = False) -> Added:
        """Add or update a record. A newer record replaces that of a known node; a new endpoint must be
        verified again.

        `alive` means that the node itself was just heard from at this endpoint. It may displace nodes that
        were merely named to us: naming nodes costs nothing, and must not keep live ones out.
        """
        at = log_distance(self.node_id, contact.node_id)
        if at == 0:
            return Added.OURSELVES
        if (until := self._bans.get(contact.node_id)) is not None:
            if now < until:
                return Added.BANNED
            self._bans.pop(contact.node_id)
        bucket = self._buckets.setdefault(at, _Bucket())
        if alive and contact.node_id not in bucket.nodes:
            self._displace_unproven(bucket, contact.node_id)
        for nodes in (bucket.nodes, bucket.replacements):
            if (known := nodes.get(contact.node_id)) is not None:
                added = self._update(bucket, nodes, known, record, contact)
                known = nodes.get(contact.node_id)
                if known is not None and known.contact == contact:
                    known.alive = known.alive or alive
                return added
        if not self._room(bucket, contact):
            return Added.LIMITED
        full = len(bucket.nodes) >= self._params.bucket_size
        if full and not self._room_in_replacements(bucket, alive=alive):
            return Added.LIMITED
        self._groups[group_of(contact.endpoint.host)] += 1
        node = (bucket.replacements if full else bucket.nodes)[contact.node_id] = Node(record, contact)
        node.alive = alive
        return Added.REPLACEMENT if full else Added.NEW

    def _displace_unproven(self, bucket: _Bucket, node_id: bytes) -> None:
        """Move an unproven node of a full bucket to the replacements, to make room for a live one."""
        if len(bucket.nodes) >= self._params.bucket_size:
            named = next((at for at, node in bucket.nodes.items() if not node.alive), None)
            if named is None:
                return
            if self._room_in_replacements(bucket, alive=False):
                bucket.replacements[named] = bucket.nodes.pop(named)
            else:
                self._take(bucket.nodes, named)
        if node_id in bucket.replacements:
            bucket.nodes[node_id] = bucket.replacements.pop(node_id)

    def _room_in_replacements(self, bucket: _Bucket, *, alive: bool) -> bool:
        """Make room for one more replacement: drop the oldest unproven one or, for a live node, the
        oldest."""
        if len(bucket.replacements) < self._params.replacements:
            return True
        oldest = next((at for at, node in bucket.replacements.items() if not node.alive), None)
        if oldest is None and alive:
            oldest = next(iter(bucket.replacements))
        if oldest is not None:
            self._take(bucket.replacements, oldest)
        return oldest is not None

    def _update(
        self, bucket: _Bucket, nodes: dict[bytes, Node], known: Node, record: Enr, contact: NodeContact
    ) -> Added:
        if record.seq <= known.record.seq:
            return Added.KNOWN
        if contact.endpoint == known.contact.endpoint:
            known.record = record
            return Added.UPDATED
        self._take(nodes, contact.node_id)
        if not self._room(bucket, contact):
            self._refill(bucket)
            return Added.LIMITED
        # The node moved: keep its place, but treat it as unchecked.
        self._groups[group_of(contact.endpoint.host)] += 1
        nodes[contact.node_id] = Node(record, contact)
        return Added.UPDATED

    def _room(self, bucket: _Bucket, contact: NodeContact) -> bool:
        """Return whether the limits per address group allow one more node."""
        host = contact.endpoint.host
        # Sybil resistance: without the limits, one owner of a subnet could fill a bucket and eclipse us
        # (nwaku: 10 per table, 2 per bucket).
        if self._params.exempt_loopback and is_loopback(host):
            return True
        group = group_of(host)
        if self._groups[group] >= self._params.table_ip_limit:
            return False
        same = sum(
            group_of(node.contact.endpoint.host) == group
            for nodes in (bucket.nodes, bucket.replacements)
            for node in nodes.values()
        )
        return same < self._params.bucket_ip_limit

    def _take(self, nodes: dict[bytes, Node], node_id: bytes) -> None:
        group = group_of(nodes.pop(node_id).contact.endpoint.host)
        self._groups[group] -= 1
        if not self._groups[group]:
            del self._groups[group]

    def _refill(self, bucket: _Bucket) -> None:
        """Fill a vacant place with the newest live replacement, or else the newest one."""
        if bucket.replacements and len(bucket.nodes) < self._params.bucket_size:
            newest = reversed(bucket.replacements)
            chosen = next((at for at in newest if bucket.replacements[at].alive), None)
            chosen = chosen or next(reversed(bucket.replacements))
            bucket.nodes[chosen] = bucket.replacements.pop(chosen)

    def answered(self, contact: NodeContact, now: float) -> bool:
        """Record a response of the node at this endpoint. Return whether it was the first."""
        bucket = self._buckets.get(log_distance(self.node_id, contact.node_id))
        node = None if bucket is None else bucket.nodes.get(contact.node_id)
        if bucket is None or node is None or node.contact != contact:
            return False
        first = not node.verified
        node.verified = node.checked = node.alive = True
        node.failures = 0
        node.seen = now
        bucket.nodes[contact.node_id] = bucket.nodes.pop(contact.node_id)  # most recently seen goes last
        return first

    def failed(self, contact: NodeContact) -> bool:
        """Record an unanswered request. Return whether the node was removed because of it."""
        node = self.get(contact.node_id)
        if node is None or node.contact != contact:
            return False
        node.checked = True
        node.failures += 1
        if node.verified and node.failures < self._params.max_failures:
            return False
        self.remove(contact.node_id)
        return True

    def remove(self, node_id: bytes) -> None:
        """Remove a node; a replacement takes its place."""
        bucket = self._buckets.get(log_distance(self.node_id, node_id))
        if bucket is None:
            return
        for nodes in (bucket.nodes, bucket.replacements):
            if node_id in nodes:
                self._take(nodes, node_id)
        self._refill(bucket)

    def ban(self, node_id: bytes, now: float) -> None:
        """Remove a misbehaving node and do not accept it again for a while."""
        self._bans.put(node_id, now + self._params.ban_time)
        self.remove(node_id)

    # -- maintenance ------------------------------------------

    def unchecked(self) -> Node | None:
        """Return a node that was never checked, preferring live ones."""
        found: Node | None = None
        for node in self.nodes():
            if not node.checked:
                if node.alive:
                    return node
                found = found or node
        return found

    def to_check(self, random: random_module.Random) -> Node | None:
        """Return the least recently seen node of a random bucket (discv5-theory: liveness checks)."""
        filled = [bucket for bucket in self._buckets.values() if bucket.nodes]
        return next(iter(random.choice(filled).nodes.values())) if filled else None

    def to_refresh(self, now: float) -> int | None:
        """Return the least recently refreshed distance of a populated range, if a refresh is due."""
        oldest = min(self._populated(), key=self._refreshed_at)
        return oldest if now - self._refreshed_at(oldest) >= self._params.refresh_interval else None

    def _populated(self) -> range:
        """Return the distances from 256 down to one below the closest node: no nodes are expected beyond
        that."""
        filled = (at for at, bucket in self._buckets.items() if bucket.nodes)
        return range(256, max(1, min(filled, default=256) - 1) - 1, -1)

    def _refreshed_at(self, at: int) -> float:
        bucket = self._buckets.get(at)
        return float("-inf") if bucket is None else bucket.refreshed_at

    def mark_refreshed(self, target: bytes, now: float) -> None:
        """Record that a lookup for this node id was made."""
        at = log_distance(self.node_id, target)
        if at:
            self._buckets.setdefault(at, _Bucket()).refreshed_at = now


def random_id_at(node_id: bytes, at: int, random: random_module.Random) -> bytes:
    """Return a random node id at a logarithmic distance from `node_id`."""
    offset = random.getrandbits(at - 1) | 1 << (at - 1) if at > 1 else at
    return (int.from_bytes(node_id, "big") ^ offset).to_bytes(len(node_id), "big")
