"""A lookup of the nodes closest to a node id: ask the closest known nodes for closer ones, repeatedly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kernel_proc.discovery.discv5.endpoint import NodeContact, group_of, is_loopback
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.discv5.table import distance, log_distance
from kernel_proc.discovery.enr import Enr

MAX_FOUND = 512
"""Records kept per lookup. Honest nodes yield about 16 × 16."""


def distances_to(node_id: bytes, target: bytes, count: int) -> tuple[int, ...]:
    """Return the distances from itself at which a node may know others close to `target`: the target's
    distance first, then the adjacent ones (discv5-theory, Lookup)."""
    at = log_distance(node_id, target)
    # One more than needed on each side, in case one side ends.
    around = [at, *(other for step in range(1, count + 1) for other in (at + step, at - step))]
    return tuple(other for other in around if 1 <= other <= 256)[:count]


class Lookup:
    """The state of one lookup. No node is asked twice.

    It finishes when the `lookup_results` closest known nodes, except failed ones, have answered. Nodes passed
    to `add` with `first` are asked before closer ones that were only named by others.
    """

    def __init__(self, target: bytes, own_id: bytes, params: Params) -> None:
        self.target = target
        self._own_id = own_id
        self._params = params
        self._known: dict[bytes, tuple[Enr, NodeContact]] = {}
        self._groups: Counter[str] = Counter()
        self._asked: set[bytes] = set()
        self._answered: set[bytes] = set()
        self._failed: set[bytes] = set()
        self._first: list[bytes] = []

    def add(self, records: Iterable[tuple[Enr, NodeContact]], *, first: bool = False) -> None:
        """Add candidates to ask."""
        for record, contact in records:
            if self.consider(record, contact) and first:
                self._first.append(contact.node_id)

    def consider(self, record: Enr, contact: NodeContact) -> bool:
        """Add a candidate. Return whether it was accepted.

        A newer record replaces an older one that was not used yet. The number of candidates per address group
        is limited as in the table; otherwise a queried node could fill the lookup with nodes of its own.
        """
        node_id = contact.node_id
        if node_id == self._own_id:
            return False
        known = self._known.get(node_id)
        if known is not None:
            if record.seq > known[0].seq and node_id not in self._asked:
                self._known[node_id] = (record, contact)
            return True
        host = contact.endpoint.host
        group = group_of(host)
        exempt = self._params.exempt_loopback and is_loopback(host)
        if len(self._known) >= MAX_FOUND or (
            self._groups[group] >= self._params.table_ip_limit and not exempt
        ):
            return False
        self._groups[group] += 1
        self._known[node_id] = (record, contact)
        return True

    def next(self) -> tuple[Enr, NodeContact] | None:
        """Return the next node to ask, marking it as asked. None: wait for responses, or finished."""
        # discv5-theory, Lookup: alpha requests at a time, each to the closest node not asked yet, until the k
        # closest have answered.
        if self.waiting >= self._params.lookup_concurrency:
            return None
        for node_id in (*self._first, *self._closest()):
            if node_id not in self._asked:
                self._asked.add(node_id)
                return self._known[node_id]
        return None

    def _closest(self) -> list[bytes]:
        alive = (node_id for node_id in self._known if node_id not in self._failed)
        ordered = sorted(alive, key=lambda node_id: distance(node_id, self.target))
        return ordered[: self._params.lookup_results]

    def answered(self, node_id: bytes) -> None:
        """Mark a node as answered. Pass the records it returned to `add`."""
        self._answered.add(node_id)

    def failed(self, node_id: bytes) -> None:
        self._failed.add(node_id)

    @property
    def finished(self) -> bool:
        """Return whether there is no node left to ask or to wait for."""
        return not self.waiting and all(one in self._asked for one in (*self._first, *self._closest()))

    @property
    def waiting(self) -> int:
        """Number of nodes that were asked and have not answered yet."""
        return len(self._asked) - len(self._answered) - len(self._failed)

    @property
    def silent(self) -> int:
        """Number of nodes that failed to answer."""
        return len(self._failed)

    @property
    def responsive(self) -> int:
        """Number of nodes that answered."""
        return len(self._answered)

    def closest(self) -> list[Enr]:
        """Return the closest nodes that answered."""
        return [self._known[node_id][0] for node_id in self._closest() if node_id in self._answered]


@dataclass(slots=True, eq=False)
class Search:
    """A lookup with its purpose. A `walk` is a lookup that exists to meet nodes."""

    lookup: Lookup
    done: Callable[[list[Enr]], None]
    walk: bool
    reported: set[bytes] = field(default_factory=set)
    """Nodes already reported to the owner in this walk."""
    new: int = 0
    """Nodes that this search added to the table."""
    unknown: int = 0
    """The same, including those that only became replacements."""

    def has_seen_enough(self, params: Params) -> bool:
        """Return whether a walk can end early.

        A walk exists to meet nodes: unlike a lookup, which continues to the closest nodes, it ends once
        several nodes have answered and named known nodes only. In a small network that saves most of its
        cost. It also ends when many of the named nodes do not answer, so that a liar cannot prolong it.
        """
        if not self.walk:
            return False
        in_vain = not self.unknown and self.lookup.responsive >= params.lookup_concurrency
        return in_vain or self.lookup.silent >= params.walk_silent
