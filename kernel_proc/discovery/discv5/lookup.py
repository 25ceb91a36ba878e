"""A lookup: which nodes are closest to a node id? Asks the closest ones known for closer ones, and again."""

from __future__ import annotations

from collections.abc import Iterable

from kernel_proc.discovery.discv5.endpoint import Contact
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
    answer, have answered.
    """

    def __init__(self, target: bytes, own_id: bytes, params: Params) -> None:
        self.target = target
        self._own_id = own_id
        self._params = params
        self._known: dict[bytes, tuple[Enr, Contact]] = {}
        self._asked: set[bytes] = set()
        self._answered: set[bytes] = set()
        self._failed: set[bytes] = set()

    def add(self, records: Iterable[tuple[Enr, Contact]]) -> None:
        """Nodes that one may ask; a newer record replaces an older one unless it was used already."""
        for record, contact in records:
            known = self._known.get(contact.node_id)
            if contact.node_id == self._own_id or contact.node_id in self._asked:
                continue
            if known is None and len(self._known) >= MAX_FOUND:
                continue
            if known is None or record.seq > known[0].seq:
                self._known[contact.node_id] = (record, contact)

    def next(self) -> tuple[Enr, Contact] | None:
        """The next node to ask, which counts as asked from now on; None: wait, or it is over."""
        if len(self._asked) - len(self._answered) - len(self._failed) >= self._params.lookup_concurrency:
            return None
        for node_id in self._closest():
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
        waiting = len(self._asked) - len(self._answered) - len(self._failed)
        return waiting == 0 and all(node_id in self._asked for node_id in self._closest())

    @property
    def responsive(self) -> int:
        """How many nodes have answered."""
        return len(self._answered)

    def closest(self) -> list[Enr]:
        """The closest nodes that have answered."""
        return [self._known[node_id][0] for node_id in self._closest() if node_id in self._answered]

    def found(self) -> list[Enr]:
        """Every node met but those that did not answer, also nodes not asked, closest to the target first."""
        alive = [node_id for node_id in self._known if node_id not in self._failed]
        return [self._known[n][0] for n in sorted(alive, key=lambda n: distance(n, self.target))]
