"""A lookup: which nodes are closest to a node id? Asks the closest ones known for closer ones, and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from kernel_proc.discovery.discv5.endpoint import NodeContact, group_of, is_loopback
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.discv5.table import distance, log_distance
from kernel_proc.discovery.enr import Enr

__all__ = ["Lookup", "distances_to"]

MAX_FOUND = 512
"""Records kept of one lookup; with honest nodes it meets some 16 × 16."""


def distances_to(node_id: bytes, target: bytes, count: int) -> tuple[int, ...]:
    """At which distances from itself a node may know others close to `target`: that of the target first, then
    those around it."""
    at = log_distance(node_id, target)
    # One to each side more than needed, for where a side ends.
    around = [at, *(other for step in range(1, count + 1) for other in (at + step, at - step))]
    return tuple(other for other in around if 1 <= other <= 256)[:count]


class Lookup:
    """The state of one lookup. Nobody is asked twice.

    It is over when the `lookup_results` closest nodes of all that are known, but for those that did not
    answer, have answered. Nodes given to `add` are `first` asked where that is wanted, however close others
    are said to be.
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
        """Nodes that one may ask."""
        for record, contact in records:
            if self.consider(record, contact) and first:
                self._first.append(contact.node_id)

    def consider(self, record: Enr, contact: NodeContact) -> bool:
        """A node that one may ask; whether it has a place here. A newer record replaces an older one unless
        it was used already. Of one group of addresses only so many get a place as in the table: else whoever
        is asked could fill the lookup with nodes of its own."""
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
        """The next node to ask, which counts as asked from now on; None: wait, or it is over."""
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
        """A node asked has answered (what it told goes to `add`)."""
        self._answered.add(node_id)

    def failed(self, node_id: bytes) -> None:
        """A node asked has not answered."""
        self._failed.add(node_id)

    @property
    def finished(self) -> bool:
        """Whether nobody is left to be asked or waited for."""
        return not self.waiting and all(one in self._asked for one in (*self._first, *self._closest()))

    @property
    def waiting(self) -> int:
        """How many nodes are asked and have not answered yet."""
        return len(self._asked) - len(self._answered) - len(self._failed)

    @property
    def silent(self) -> int:
        """How many nodes have not answered."""
        return len(self._failed)

    @property
    def responsive(self) -> int:
        """How many nodes have answered."""
        return len(self._answered)

    def closest(self) -> list[Enr]:
        """The closest nodes that have answered."""
        return [self._known[node_id][0] for node_id in self._closest() if node_id in self._answered]
