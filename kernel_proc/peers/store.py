"""The known peers, connected or not: their addresses, what they do, and how dialling them went.

Pure: times are instants of a SteadyClock (see `clock`) and passed as arguments. Bounded in three ways: in
total, per address group, and per source for peers that were never reached, so that fabricated peers, which
cost nothing, cannot crowd out real ones. A peer is never abandoned: failures increase its delay up to half an
hour, and it is only forgotten when better ones need the room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from random import Random
from typing import Final

from ipc_schema.backoff import retry_delay
from kernel_proc.peers.known import UNSIGNED, KnownPeer, PeerFacts, PeerOrigin, group_of_address

MAX_ADDRESSES: Final = 8
MAX_ADDRESS_TEXT: Final = 300
MAX_PROTOCOLS: Final = 32
MAX_SHARDS: Final = 64
MAX_WHY: Final = 200

FIRST_DELAY: Final = 5.0
HIGHEST_DELAY: Final = 1800.0
USELESS_DELAY: Final = 3600.0
"""For a peer that is useless to us: another network, or not a Waku node."""
OFFLINE_DELAY: Final = 5.0
"""After a dial that failed while we were offline, which says nothing about the peer."""
RETRY_WITHIN: Final = 10.0
"""Once online again, waiting peers are tried within this many seconds."""


_OPERATOR: Final = frozenset({PeerOrigin.STATIC, PeerOrigin.API})


class PeerStore:
    """At most `capacity` peers, `per_group` per address group (0: no limit), and a quarter that one source
    reported and that were never reached.

    `keep` returns the peers that must not be forgotten now: connected ones and those configured by the
    operator.
    """

    def __init__(
        self,
        capacity: int,
        *,
        per_group: int = 0,
        rng: Random,
        keep: Callable[[str], bool] = lambda _peer: False,
        own_id: str = "",
    ) -> None:
        self.capacity = max(1, capacity)
        self._per_group = per_group
        self._rng = rng
        self._keep = keep
        self._own_id = own_id
        self.per_source = max(16, self.capacity // 4)
        self._peers: dict[str, KnownPeer] = {}
        self._groups: Counter[str] = Counter()
        self._unreached: dict[str, dict[str, None]] = {}
        """The never reached peers by source."""
        self.changes = 0
        """Incremented by each change worth saving."""
        self.arrived = 0
        """Total number of peers that were new."""
        self.refused = 0
        self.pruned = 0

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[KnownPeer]:
        return iter(self._peers.values())

    def get(self, peer_id: str) -> KnownPeer | None:
        return self._peers.get(peer_id)

    # --- learning ---

    def set_origin(self, peer_id: str, origin: str) -> None:
        known = self._peers.get(peer_id)
        if known is not None and known.origin != origin:
            known.origin = origin
            self.changes += 1

    def learn(
        self,
        peer_id: str,
        addresses: Iterable[str],
        origin: str,
        now: float,
        facts: PeerFacts = UNSIGNED,
        *,
        source: str = "",
    ) -> bool:
        """Record a peer. Return False if the store is full or the peer has no dialable address.

        `source` identifies who reported it, if the origin does not. A signed record (`seq` above 0) overrides
        unsigned information, and a newer record an older one; addresses that worked once stay first.
        """
        usable = tuple(one for one in dict.fromkeys(addresses) if len(one) <= MAX_ADDRESS_TEXT)
        if peer_id == self._own_id or not usable:
            return False
        source = source or str(origin)
        known = self._peers.get(peer_id)
        if known is None:
            group = group_of_address(usable[0])
            if not self._has_room(group, origin, source):
                self.refused += 1
                return False
            known = KnownPeer(peer_id, origin=origin, learned=now, group=group)
            self._peers[peer_id] = known
            self._groups[group] += 1
            self._enter_queue(known, source)
            self.changes += 1
            self.arrived += 1
        elif not known.last_success and self._queued(source) < self._queued(known.source):
            self._enter_queue(known, source)  # move to the shorter queue: that source reported fewer peers
        if facts.seq and facts.seq < known.seq:
            return True
        if facts.seq > known.seq:
            news = set(usable) - set(known.addresses)
            known.enr, known.seq, known.capabilities = facts.enr, facts.seq, facts.capabilities
            known.cluster, known.shards = facts.cluster, tuple(sorted(facts.shards)[:MAX_SHARDS])
            if news:  # it moved: failures at the old address no longer count
                known.retry_at, known.failures = min(known.retry_at, now), 0
            self._set_addresses(known, (*usable, *known.addresses) if not news else usable)
            self.changes += 1
        elif not facts.seq:
            self._set_addresses(known, (*known.addresses, *usable))
        self._prune(now, peer_id)
        return peer_id in self._peers

    def _set_addresses(self, known: KnownPeer, addresses: Iterable[str]) -> None:
        chosen = tuple(dict.fromkeys(addresses))[:MAX_ADDRESSES]
        if chosen == known.addresses:
            return
        known.addresses = chosen
        self.changes += 1
        group = group_of_address(chosen[0])
        if group != known.group:
            self._leave(known)
            known.group = group
            self._groups[group] += 1

    def _has_room(self, group: str, origin: str, source: str) -> bool:
        if self._per_group and self._groups[group] >= self._per_group:
            # Full: evict the peer that failed most, if any. A good one is never evicted.
            there = [
                p for p in self._peers.values() if p.group == group and p.failures and not p.last_success
            ]
            if not self._drop_one(there):
                return False
        unreached = self._unreached.get(source, {})
        if len(unreached) < self.per_source or origin in _OPERATOR:
            return True
        there = [self._peers[peer_id] for peer_id in unreached]
        self._rng.shuffle(there)  # random among never tried ones, so that good peers have a chance
        return self._drop_one(there)

    def _drop_one(self, candidates: Iterable[KnownPeer]) -> bool:
        there = [peer for peer in candidates if not self._keep(peer.peer_id)]
        if not there:
            return False
        self._forget(max(there, key=lambda peer: peer.failures))
        self.pruned += 1
        return True

    def described(
        self,
        peer_id: str,
        *,
        protocols: Collection[str] | None = None,
        cluster: int | None = None,
        shards: Collection[int] | None = None,
    ) -> None:
        """Update a record with what the connected peer reported in identify or metadata."""
        known = self._peers.get(peer_id)
        if known is None:
            return
        before = known.protocols, known.cluster, known.shards
        if protocols is not None:
            known.protocols = tuple(sorted(protocols)[:MAX_PROTOCOLS])
        if cluster is not None:
            known.cluster = cluster
        if shards is not None:
            known.shards = tuple(sorted(shards)[:MAX_SHARDS])
        if before != (known.protocols, known.cluster, known.shards):
            self.changes += 1

    # --- dial results ---

    def succeeded(self, peer_id: str, now: float, address: str | None = None) -> None:
        """Record a connection; `address` is where we dialled it."""
        known = self._peers.get(peer_id)
        if known is None:
            return
        self._leave_queue(known)
        known.last_success = known.last_attempt = now
        known.failures, known.retry_at, known.why = 0, 0.0, ""
        self.changes += 1
        if address is not None and address in known.addresses:
            self._set_addresses(known, (address, *known.addresses))

    def failed(
        self, peer_id: str, now: float, *, online: bool, why: str = "", longest: float = HIGHEST_DELAY
    ) -> None:
        """Record a failed dial. It only counts against the peer while we are `online`, with a delay of at
        most `longest` seconds."""
        known = self._peers.get(peer_id)
        if known is None:
            return
        known.last_attempt, known.why = now, why[:MAX_WHY]
        if not online:
            known.retry_at = max(known.retry_at, now + OFFLINE_DELAY * self._rng.uniform(0.8, 1.6))
            return
        known.failures += 1
        delay = retry_delay(known.failures, FIRST_DELAY, 2.0, longest)
        known.retry_at = max(known.retry_at, now + delay * self._rng.uniform(0.8, 1.2))
        self.changes += 1

    def undo_failure(self, peer_id: str) -> None:
        """Undo one failure that was our own fault."""
        known = self._peers.get(peer_id)
        if known is not None and known.failures:
            known.failures -= 1
            self.changes += 1

    def lost(self, peer_id: str, now: float, lasted: float, why: str = "") -> bool:
        """Record the end of a connection. A short one counts as a failure (returns True), to avoid redial
        loops."""
        known = self._peers.get(peer_id)
        if known is None:
            return False
        if known.retry_at > now + HIGHEST_DELAY * 1.2:
            why = known.why  # it is useless to us, which says more than how the connection ended
        if lasted < FIRST_DELAY:
            self.failed(peer_id, now, online=True, why=why)
            return True
        self._leave_queue(known)
        known.last_success, known.why = now, why[:MAX_WHY]
        known.retry_at = max(known.retry_at, now + self._rng.uniform(0.2, 1.0))
        self.changes += 1
        return False

    def postpone(self, peer_id: str, now: float, seconds: float, why: str = "") -> None:
        """Do not dial the peer for a while: it is useless to us, or was disconnected on request."""
        known = self._peers.get(peer_id)
        if known is not None:
            known.retry_at = max(known.retry_at, now + seconds * self._rng.uniform(0.9, 1.1))
            known.why = why[:MAX_WHY] or known.why
            self.changes += 1

    def retry_soon(self, now: float) -> None:
        """Retry soon what failed while we were offline. Useless peers keep their delay."""
        for known in self._peers.values():
            if now < known.retry_at <= now + HIGHEST_DELAY * 1.2:
                known.retry_at = now + self._rng.uniform(0, RETRY_WITHIN)

    # --- bounds ---

    def value(self, peer: KnownPeer, now: float) -> tuple[float, ...]:
        """Return a sort key: peers with a greater one are kept longer."""
        return (
            self._keep(peer.peer_id),
            peer.last_success > 0 and peer.failures < 8,
            -peer.failures,
            peer.last_success,
            peer.retry_at <= now,
        )

    def _prune(self, now: float, newcomer: str) -> None:
        """Remove several at a time, so that a flood of newcomers costs one sort now and then instead of
        one each."""
        slack = max(1, self.capacity // 16)
        if len(self._peers) <= self.capacity:
            return
        ranked = list(self._peers.values())
        self._rng.shuffle(ranked)  # break ties randomly, not by arrival
        ranked.sort(key=lambda peer: self.value(peer, now))
        for peer in ranked[: len(ranked) - self.capacity + slack]:
            if self._keep(peer.peer_id) or (peer.peer_id == newcomer and len(self._peers) <= self.capacity):
                continue
            self._forget(peer)
            self.pruned += 1

    def forget(self, peer_id: str) -> None:
        if (known := self._peers.get(peer_id)) is not None:
            self._forget(known)

    def _forget(self, known: KnownPeer) -> None:
        del self._peers[known.peer_id]
        self._leave(known)
        self._leave_queue(known)
        self.changes += 1

    def _leave(self, known: KnownPeer) -> None:
        self._groups[known.group] -= 1
        if self._groups[known.group] <= 0:
            del self._groups[known.group]

    def _queued(self, source: str) -> int:
        return len(self._unreached.get(source, ()))

    def _enter_queue(self, known: KnownPeer, source: str) -> None:
        self._leave_queue(known)
        known.source = source
        self._unreached.setdefault(source, {})[known.peer_id] = None

    def _leave_queue(self, known: KnownPeer) -> None:
        unreached = self._unreached.get(known.source)
        if unreached is not None:
            unreached.pop(known.peer_id, None)
            if not unreached:
                del self._unreached[known.source]

    def restore(self, peers: Iterable[KnownPeer], now: float) -> None:
        """Load the peers of an earlier run. Delays are capped at the current maximum."""
        for peer in peers:
            if peer.peer_id == self._own_id or not peer.addresses or peer.peer_id in self._peers:
                continue
            peer.group = group_of_address(peer.addresses[0])
            peer.retry_at = min(peer.retry_at, now + USELESS_DELAY)
            peer.last_success, peer.last_attempt = min(peer.last_success, now), min(peer.last_attempt, now)
            if peer.last_success and peer.failures == 0:
                peer.retry_at = 0.0
            self._peers[peer.peer_id] = peer
            self._groups[peer.group] += 1
        self._prune(now, "")
