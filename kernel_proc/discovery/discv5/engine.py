"""discv5 without I/O: the node table and its maintenance, lookups, and random walks.

Everything happens in `receive` (a datagram), `tick` (time has passed), or a request of the owner; each takes
the current time. Afterwards the owner sends what is in `outbox`, and calls `tick` again by `wakeup()`.
Randomness is injected, so that tests can run a network of engines deterministically without sockets or
clocks.
"""

from __future__ import annotations

import random as random_module
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from kernel_proc.discovery.discv5.dialogue import Dialogue, TooManyRequestsError
from kernel_proc.discovery.discv5.endpoint import NodeContact, UdpEndpoint, contact_of, may_relay
from kernel_proc.discovery.discv5.lookup import Lookup, Search, distances_to
from kernel_proc.discovery.discv5.messages import Pong
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.discv5.table import Added, Node, Table, random_id_at
from kernel_proc.discovery.discv5.votes import Votes
from kernel_proc.discovery.enr import Enr
from kernel_proc.discovery.enr_local import LocalEnr

_ANNOUNCED: Final = 64
"""Nodes that are notified at once when our record changes; others learn it at their next liveness check."""
_ANNOUNCE_INTERVAL: Final = 0.1
_FIRST_BACKOFF: Final = 1.0


def _nothing(_: object) -> None:
    """No-op callback."""


def _anyone(_: Enr) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class NodeCallbacks:
    """What the owner of a node wants to hear. Nothing of it may block."""

    found: Callable[[Enr], None] = _nothing
    """Called for nodes that `wanted` accepts: once per walk for each node that it meets, immediately (being
    named by another node does not mean that it is alive), and for each node that answers us for the first
    time."""
    wanted: Callable[[Enr], bool] = _anyone
    external: Callable[[UdpEndpoint], None] = _nothing
    """Called when other nodes agree on another endpoint of ours."""


class Engine:
    """One discv5 node."""

    def __init__(
        self,
        local: LocalEnr,
        params: Params,
        random: random_module.Random,
        *,
        now: float,
        versions: frozenset[int] = frozenset({4}),
        callbacks: NodeCallbacks,
    ) -> None:
        """`versions` are the IP versions we can send over. `random` generates keys: a
        `random.SystemRandom`, except in tests."""
        self._local = local
        self._params = params
        self._random = random
        self._versions = versions
        self._callbacks = callbacks
        self._dialogue = Dialogue(local, self, params, random, versions, now)
        self.outbox = self._dialogue.outbox
        """Datagrams to be sent. The owner drains it."""
        self.table = Table(local.node_id, params)
        self._votes = Votes(params)
        self._observed: dict[int, UdpEndpoint] = {}
        self._searches: set[Search] = set()
        self._bootstrap: tuple[Enr, ...] = ()
        self._walk_pause = params.walk_pause
        self._walk_backoff = _FIRST_BACKOFF / 2
        self._walk_at: float | None = now
        """None while a walk is in progress."""
        self._joined = False
        """A walk has received at least one response."""
        self._check_at = now
        self._check_unverified_at = now
        self._announce: deque[NodeContact] = deque()
        self._announce_at = now
        self._announced = local.record.seq
        self._counters = {"walks": 0, "found": 0, "banned": 0}

    # -- interface of the owner --------------------------------

    def counters(self) -> dict[str, int]:
        """Return monotonic counters by name."""
        return {**self._dialogue.counters(), **self._counters}

    def gauges(self) -> dict[str, int]:
        """Return current sizes by name."""
        return {
            "nodes": len(self.table),
            "nodes_verified": self.table.verified,
            "replacements": self.table.replacements,
            "sessions": self._dialogue.sessions,
            "requests": self._dialogue.pending,
            "lookups": len(self._searches),
        }

    def observed(self, version: int) -> UdpEndpoint | None:
        """Return our endpoint as seen by the majority of nodes."""
        return self._observed.get(version)

    def set_bootstrap(self, records: Iterable[Enr], now: float) -> None:
        """Set the boot nodes, which are asked when no other node is known. Replaces the previous ones."""
        self._bootstrap = tuple(records)
        self._seed(now)

    def set_walk_pause(self, seconds: float, now: float) -> None:
        """Set the pause between random walks: short while peers are needed, long otherwise."""
        self._walk_pause = seconds
        if self._walk_at is not None:
            self._walk_at = min(self._walk_at, now + seconds)

    def add_record(self, record: Enr, now: float) -> Added | None:
        """Offer a record to the table. Return None if its node is unreachable."""
        contact = contact_of(record, self._versions)
        return None if contact is None else self.table.add(record, contact, now)

    # -- requests of the owner --------------------------------

    def ping(self, record: Enr, now: float, done: Callable[[Pong | None], None] = _nothing) -> None:
        """Send PING; call `done(None)` without a response. Raise TooManyRequestsError, or ValueError for
        an unreachable node."""
        self._dialogue.now = now
        self._dialogue.ping(record, done)

    def find_node(
        self,
        record: Enr,
        distances: Sequence[int],
        now: float,
        done: Callable[[list[Enr] | None], None] = _nothing,
    ) -> None:
        """Send FINDNODE; `done` gets the verified records at these distances, None without a response.
        Raise as `ping`."""
        self._dialogue.now = now
        self._dialogue.find_node(record, distances, done)

    def lookup(self, target: bytes, now: float, done: Callable[[list[Enr]], None]) -> None:
        """Look up the nodes closest to a node id; `done` gets those that answered, closest first. Raise
        TooManyRequestsError."""
        self._dialogue.now = now
        if len(self._searches) >= self._params.max_lookups:
            raise TooManyRequestsError
        self._search(target, done, walk=False)

    # -- datagrams --------------------------------------------

    def receive(self, datagram: bytes, source: UdpEndpoint, now: float) -> None:
        """Process a datagram. Never raise because of its content."""
        self._dialogue.now = now
        self._dialogue.receive(datagram, source)

    # -- reports of the dialogue --------------------------------

    def known_record(self, node_id: bytes) -> Enr | None:
        node = self.table.get(node_id)
        return None if node is None else node.record

    def shareable(self, contact: NodeContact, distances: Sequence[int]) -> list[Enr]:
        """Return records of verified nodes that are meaningful at the contact's address."""
        nodes = self.table.at_distances((at for at in distances if at), 2 * self._params.nodes_limit)
        return [node.record for node in nodes if self._may_share(node, contact)]

    def _may_share(self, node: Node, contact: NodeContact) -> bool:
        return node.contact.node_id != contact.node_id and may_relay(
            node.contact.endpoint.host, contact.endpoint.host
        )

    def node_contacted_us(self, contact: NodeContact, record: Enr) -> None:
        """Add a node that contacted us from the endpoint in its record. It is shared only after it has
        answered us there."""
        if self.table.get(contact.node_id) is None and contact_of(record, self._versions) == contact:
            self.table.add(record, contact, self._dialogue.now, alive=True)

    def node_answered(self, contact: NodeContact) -> None:
        """Mark a node verified, and report it if it is wanted."""
        if self.table.answered(contact, self._dialogue.now):
            if not self._joined and self._walk_at is not None:
                # The first responsive node: walk at once, and again soon, because others tend to join at the
                # same time.
                self._walk_at = self._dialogue.now
                self._walk_backoff = _FIRST_BACKOFF / 2
            node = self.table.get(contact.node_id)
            if node is not None and self._callbacks.wanted(node.record):
                self._counters["found"] += 1
                self._callbacks.found(node.record)

    def node_failed(self, contact: NodeContact) -> None:
        """Count a failure of the node."""
        self.table.failed(contact)

    def node_misbehaved(self, contact: NodeContact) -> None:
        """Ban the node for a while."""
        self._counters["banned"] += 1
        self.table.ban(contact.node_id, self._dialogue.now)

    def node_has_record(self, contact: NodeContact, seq: int) -> None:
        """Request the node's record if ours is outdated."""
        node = self.table.get(contact.node_id)
        if node is None or seq <= node.record.seq:
            return

        def take(records: list[Enr] | None) -> None:
            for record in records or ():
                self.add_record(record, self._dialogue.now)

        try:
            self._dialogue.find_node(node.record, (0,), take)
        except TooManyRequestsError:
            return  # it will report its number again

    def node_sees_us(self, contact: NodeContact, endpoint: UdpEndpoint) -> None:
        """Count a vote for our external endpoint."""
        now = self._dialogue.now
        self._votes.add(contact, endpoint, now)
        winner = self._votes.winner(endpoint.version, now)
        if winner is not None and winner != self._observed.get(endpoint.version):
            self._observed[endpoint.version] = winner
            self._callbacks.external(winner)

    # -- time -------------------------------------------------

    def wakeup(self) -> float:
        """Return the latest time for the next `tick`."""
        times = [self._check_at]
        if (deadline := self._dialogue.deadline()) is not None:
            times.append(deadline)
        if self._walk_at is not None:
            times.append(self._walk_at)
        if self.table.unchecked() is not None:
            times.append(self._check_unverified_at)
        if self._announce:
            times.append(self._announce_at)
        return min(times)

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._dialogue.now = now
        self._dialogue.expire()
        self._announce_changes(now)
        if now >= self._check_unverified_at and (node := self.table.unchecked()) is not None:
            self._check_unverified_at = now + self._params.check_unverified_interval
            self._check(node)
        if now >= self._check_at:
            self._check_at = now + self._random.uniform(0, self._params.check_interval)
            self._check(self.table.to_check(self._random))
        if self._walk_at is not None and now >= self._walk_at:
            self._walk(now)

    def _announce_changes(self, now: float) -> None:
        """PING verified nodes after a change of our record, so that they request the new one."""
        if self._local.record.seq != self._announced:
            self._announced = self._local.record.seq
            verified = sorted((n for n in self.table.nodes() if n.verified), key=lambda n: -n.seen)
            self._announce = deque(node.contact for node in verified[:_ANNOUNCED])
        if self._announce and now >= self._announce_at:
            self._announce_at = now + _ANNOUNCE_INTERVAL
            self._check(self.table.get(self._announce.popleft().node_id))

    def _check(self, node: Node | None) -> None:
        if node is None:
            return
        node.checked = True
        try:
            self._dialogue.ping(node.record, _nothing)
        except TooManyRequestsError:
            return  # too many in progress; it is checked another time

    # -- lookups ----------------------------------------------

    def _search(self, target: bytes, done: Callable[[list[Enr]], None], *, walk: bool) -> None:
        search = Search(Lookup(target, self._local.node_id, self._params), done, walk)
        self._searches.add(search)
        self.table.mark_refreshed(target, self._dialogue.now)
        nodes = self.table.closest(target)
        proven = [node for node in nodes if node.verified]
        if len(proven) < self._params.lookup_concurrency:
            seeds = nodes[: self._params.lookup_results]
        elif walk:
            # Some close nodes and some random ones, so that no node is always, or never, asked.
            seeds = proven[: self._params.walk_seeds // 2]
            others = proven[len(seeds) :]
            seeds += self._random.sample(others, min(len(others), self._params.walk_seeds - len(seeds)))
        else:
            seeds = proven[: self._params.lookup_results]
        search.lookup.add(((node.record, node.contact) for node in seeds), first=walk)
        self._advance(search)

    def _advance(self, search: Search) -> None:
        lookup = search.lookup
        enough = search.has_seen_enough(self._params)
        while not enough and (chosen := lookup.next()) is not None:
            self._step(search, *chosen)
        over = lookup.finished or (enough and not lookup.waiting)
        if over and search in self._searches:
            self._searches.remove(search)
            if search.walk:
                self._walked(search)
            search.done(lookup.closest())

    def _step(self, search: Search, record: Enr, contact: NodeContact) -> None:
        def done(records: list[Enr] | None) -> None:
            if records is None:
                search.lookup.failed(contact.node_id)
            else:
                search.lookup.answered(contact.node_id)
                self.table.add(record, contact, self._dialogue.now, alive=True)
                self.node_answered(contact)
                self._report(search, record)
                self._learn(search, records)
            self._advance(search)

        distances = distances_to(contact.node_id, search.lookup.target, self._params.lookup_distances)
        try:
            self._dialogue.find_node(record, distances, done)
        except TooManyRequestsError:
            search.lookup.failed(contact.node_id)

    def _learn(self, search: Search, records: list[Enr]) -> None:
        for record in records:
            contact = contact_of(record, self._versions)
            if contact is None:
                continue
            added = self.table.add(record, contact, self._dialogue.now)
            search.new += added is Added.NEW
            search.unknown += added in (Added.NEW, Added.REPLACEMENT)
            if added is not Added.BANNED and search.lookup.consider(record, contact):
                self._report(search, record)

    def _report(self, search: Search, record: Enr) -> None:
        if search.walk and record.node_id not in search.reported and self._callbacks.wanted(record):
            search.reported.add(record.node_id)
            self._counters["found"] += 1
            self._callbacks.found(record)

    # -- walks ------------------------------------------------

    def _seed(self, now: float) -> None:
        for record in self._bootstrap:
            self.add_record(record, now)

    def _walk(self, now: float) -> None:
        """Look up a target to meet nodes on the way: our own id until a node answers, then an id in the
        least recently visited bucket, then a random id."""
        self._walk_at = None
        if not self.table.verified:
            self._seed(now)
        if not self._joined:
            target = self._local.node_id
        elif (at := self.table.to_refresh(now)) is not None:
            target = random_id_at(self._local.node_id, at, self._random)
        else:
            target = self._random.randbytes(len(self._local.node_id))
        self._counters["walks"] += 1
        self._search(target, _nothing, walk=True)

    def _walked(self, search: Search) -> None:
        """Schedule the next walk: soon while walks find new nodes, then with growing pauses up to the
        configured one."""
        self._joined = self._joined or search.lookup.responsive > 0
        self._walk_backoff = _FIRST_BACKOFF if search.new else self._walk_backoff * 2
        self._walk_at = self._dialogue.now + min(self._walk_backoff, self._walk_pause)
