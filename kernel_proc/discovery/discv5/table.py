"""The routing table: nodes by their distance from us, so many of each distance, and not many of one owner.

Distances are logarithmic: 256 minus the number of leading bits that two node ids share; half of all nodes are
at 256, a quarter at 255 and so on. A bucket keeps those of one distance, the one not seen longest first, and
beside them replacements for when one of them is gone.
"""

from __future__ import annotations

import random as random_module
from collections import Counter
from collections.abc import Iterable
from enum import Enum, auto

from kernel_proc.discovery.discv5.endpoint import NodeContact, group_of, is_loopback
from kernel_proc.discovery.discv5.limits import LruDict
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.enr import Enr

__all__ = ["Added", "Node", "Table", "distance", "log_distance", "random_id_at"]


def distance(one: bytes, other: bytes) -> int:
    """XOR of two node ids as a number."""
    return int.from_bytes(one, "big") ^ int.from_bytes(other, "big")


def log_distance(one: bytes, other: bytes) -> int:
    """0 for the same node, else 1 to 256."""
    return distance(one, other).bit_length()


class Added(Enum):
    """What became of a record given to the table."""

    NEW = auto()
    UPDATED = auto()
    KNOWN = auto()
    """This record or a newer one is there."""
    REPLACEMENT = auto()
    """The bucket is full; the node waits beside it."""
    LIMITED = auto()
    """Too many nodes of the same group of addresses."""
    BANNED = auto()
    OURSELVES = auto()


class Node:
    """A node in the table."""

    __slots__ = ("alive", "checked", "contact", "failures", "record", "seen", "verified")

    def __init__(self, record: Enr, contact: NodeContact) -> None:
        self.record = record
        self.contact = contact
        self.verified = False
        """It has answered us at this endpoint. Only such nodes are told to others."""
        self.alive = False
        """It has shown, if only by its own request, that it is there; others were only named to us."""
        self.checked = False
        """It was asked whether it is there, at this endpoint."""
        self.failures = 0
        """Requests in a row without an answer."""
        self.seen = float("-inf")
        """When it answered last."""

    def __repr__(self) -> str:
        host, port = self.contact.endpoint
        return f"Node({self.contact.node_id.hex()[:8]}… at {host}:{port})"


class _Bucket:
    __slots__ = ("looked_into", "nodes", "replacements")

    def __init__(self) -> None:
        self.nodes: dict[bytes, Node] = {}
        """In the order of `seen`."""
        self.replacements: dict[bytes, Node] = {}
        self.looked_into = float("-inf")


class Table:
    """256 buckets. Bounded: (bucket_size + replacements) nodes each."""

    def __init__(self, node_id: bytes, params: Params) -> None:
        self.node_id = node_id
        self._params = params
        self._buckets: dict[int, _Bucket] = {}
        self._groups: Counter[str] = Counter()
        self._bans: LruDict[bytes, float] = LruDict(params.bans)

    # -- reading ----------------------------------------------

    def get(self, node_id: bytes) -> Node | None:
        """A node of the table, not a replacement."""
        bucket = self._buckets.get(log_distance(self.node_id, node_id))
        return None if bucket is None else bucket.nodes.get(node_id)

    def nodes(self) -> list[Node]:
        """All nodes, without replacements."""
        return [node for bucket in self._buckets.values() for node in bucket.nodes.values()]

    def __len__(self) -> int:
        return sum(len(bucket.nodes) for bucket in self._buckets.values())

    @property
    def verified(self) -> int:
        """How many nodes have answered us."""
        return sum(node.verified for node in self.nodes())

    @property
    def replacements(self) -> int:
        """How many nodes wait beside their bucket."""
        return sum(len(bucket.replacements) for bucket in self._buckets.values())

    def closest(self, target: bytes) -> list[Node]:
        """The nodes, the closest to a node id first, verified ones or not."""
        return sorted(self.nodes(), key=lambda node: distance(node.contact.node_id, target))

    def at_distances(self, distances: Iterable[int], limit: int) -> list[Node]:
        """Verified nodes at these distances from us, those seen last first."""
        found: list[Node] = []
        for at in dict.fromkeys(distances):
            if (bucket := self._buckets.get(at)) is not None:
                found += [node for node in reversed(bucket.nodes.values()) if node.verified]
        return found[:limit]

    # -- changes ----------------------------------------------

    def add(self, record: Enr, contact: NodeContact, now: float, *, alive: bool = False) -> Added:
        """Take a record. A newer one replaces that of a known node; a new endpoint must be verified anew.

        `alive`: the node itself has just been heard at this endpoint. For such a one there is room where
        nodes are that were only named to us: names cost nothing, and must not keep anybody out."""
        at = log_distance(self.node_id, contact.node_id)
        if at == 0:
            return Added.OURSELVES
        if (until := self._bans.get(contact.node_id)) is not None:
            if now < until:
                return Added.BANNED
            self._bans.pop(contact.node_id)
        bucket = self._buckets.setdefault(at, _Bucket())
        if alive and contact.node_id not in bucket.nodes:
            self._make_way(bucket, contact.node_id)
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
        if full and not self._room_beside(bucket, alive=alive):
            return Added.LIMITED
        self._groups[group_of(contact.endpoint.host)] += 1
        node = (bucket.replacements if full else bucket.nodes)[contact.node_id] = Node(record, contact)
        node.alive = alive
        return Added.REPLACEMENT if full else Added.NEW

    def _make_way(self, bucket: _Bucket, node_id: bytes) -> None:
        """Put a node of a full bucket that was only named beside it, for one that is there."""
        if len(bucket.nodes) >= self._params.bucket_size:
            named = next((at for at, node in bucket.nodes.items() if not node.alive), None)
            if named is None:
                return
            if self._room_beside(bucket, alive=False):
                bucket.replacements[named] = bucket.nodes.pop(named)
            else:
                self._take(bucket.nodes, named)
        if node_id in bucket.replacements:
            bucket.nodes[node_id] = bucket.replacements.pop(node_id)

    def _room_beside(self, bucket: _Bucket, *, alive: bool) -> bool:
        """Make room for one more replacement: the oldest that was only named goes, or for one that is alive
        the oldest."""
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
        # It moved: in its old place, but as a node that nobody has checked.
        self._groups[group_of(contact.endpoint.host)] += 1
        nodes[contact.node_id] = Node(record, contact)
        return Added.UPDATED

    def _room(self, bucket: _Bucket, contact: NodeContact) -> bool:
        """Whether the limits for one group of addresses let one more in."""
        host = contact.endpoint.host
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
        """Put a replacement into a place that has become free: one that is alive, the newest."""
        if bucket.replacements and len(bucket.nodes) < self._params.bucket_size:
            newest = reversed(bucket.replacements)
            chosen = next((at for at in newest if bucket.replacements[at].alive), None)
            chosen = chosen or next(reversed(bucket.replacements))
            bucket.nodes[chosen] = bucket.replacements.pop(chosen)

    def answered(self, contact: NodeContact, now: float) -> bool:
        """The node has answered a request of ours at this endpoint; whether this is the first time."""
        bucket = self._buckets.get(log_distance(self.node_id, contact.node_id))
        node = None if bucket is None else bucket.nodes.get(contact.node_id)
        if bucket is None or node is None or node.contact != contact:
            return False
        first = not node.verified
        node.verified = node.checked = node.alive = True
        node.failures = 0
        node.seen = now
        bucket.nodes[contact.node_id] = bucket.nodes.pop(contact.node_id)  # the one seen last is last
        return first

    def failed(self, contact: NodeContact) -> bool:
        """The node has left a request without answer; whether it was removed for that."""
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
        """Remove a node that misbehaved, and do not take it back for a while."""
        self._bans.put(node_id, now + self._params.ban_time)
        self.remove(node_id)

    # -- upkeep -----------------------------------------------

    def unchecked(self) -> Node | None:
        """A node that was never asked whether it is there; first those of which we have heard themselves."""
        found: Node | None = None
        for node in self.nodes():
            if not node.checked:
                if node.alive:
                    return node
                found = found or node
        return found

    def to_check(self, random: random_module.Random) -> Node | None:
        """The node not seen longest of a random bucket."""
        filled = [bucket for bucket in self._buckets.values() if bucket.nodes]
        return next(iter(random.choice(filled).nodes.values())) if filled else None

    def to_refresh(self, now: float) -> int | None:
        """The distance not looked into longest, of those where nodes are likely, if it is time."""
        oldest = min(self._likely(), key=self._looked_into)
        return oldest if now - self._looked_into(oldest) >= self._params.refresh_interval else None

    def _likely(self) -> range:
        """Distances down to the one below the closest node, the farthest first, since half of all nodes are
        there: beyond the closest one nobody is to be expected."""
        filled = (at for at, bucket in self._buckets.items() if bucket.nodes)
        return range(256, max(1, min(filled, default=256) - 1) - 1, -1)

    def _looked_into(self, at: int) -> float:
        bucket = self._buckets.get(at)
        return float("-inf") if bucket is None else bucket.looked_into

    def looked_up(self, target: bytes, now: float) -> None:
        """A lookup for this node id was made."""
        at = log_distance(self.node_id, target)
        if at:
            self._buckets.setdefault(at, _Bucket()).looked_into = now


def random_id_at(node_id: bytes, at: int, random: random_module.Random) -> bytes:
    """A random node id at a logarithmic distance from `node_id`."""
    offset = random.getrandbits(at - 1) | 1 << (at - 1) if at > 1 else at
    return (int.from_bytes(node_id, "big") ^ offset).to_bytes(len(node_id), "big")
