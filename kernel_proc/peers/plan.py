"""Which peers to connect to and which to disconnect: the policy of the peer manager. Pure.

The connections of a node are split between relay peers and service peers (`relay-service-ratio`); a third of
the relay ones is reserved for outbound peers, because an attacker chooses the inbound ones. Priorities: mesh
candidates on shards with too few peers, then service peers, then the rest of the relay target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from math import ceil
from random import Random
from typing import Final, NamedTuple

from kernel_proc.discovery.enr_values import Capability
from kernel_proc.peers.known import KnownPeer
from kernel_proc.protocols import lightpush_codec, store_codec
from kernel_proc.protocols.filter import codec as filter_codec
from kernel_proc.protocols.sync import codec as sync_codec
from kernel_proc.relay.params import GossipParams

_MESH: Final = GossipParams()
SHARD_PEERS: Final = _MESH.d + _MESH.d_lazy
"""Relay peers to connect per shard: D (6) for the mesh plus D_lazy (6) for gossip. The mesh then fills
even if half of those asked refuse because they are full, are in back-off, or score us low. In a small
network, all of them."""
SERVICE_PEERS: Final = 3
"""Connected peers per service that we use: one to ask, one to fall back on, one spare."""
SETTLE: Final = 20.0
"""Seconds before a new connection is evaluated: identify, metadata and the mesh take their time."""
MAX_AGAIN: Final = 3
"""Concurrent dials of peers that failed before, while others are waiting."""
AT_ONCE_OFFLINE: Final = 3
"""Concurrent dials while offline: enough to detect that the network is back."""


class Service(NamedTuple):
    """How a service is recognised: by the ENR capability bit and by the protocol in identify."""

    bit: Capability
    protocol: str


SERVICES: Final[Mapping[str, Service]] = {
    "store": Service(Capability.STORE, store_codec.PROTOCOL),
    "filter": Service(Capability.FILTER, filter_codec.SUBSCRIBE_PROTOCOL),
    "lightpush": Service(Capability.LIGHTPUSH, lightpush_codec.PROTOCOL),
    "sync": Service(Capability.SYNC, sync_codec.PROTOCOL),
}


@dataclass(frozen=True, slots=True)
class Targets:
    """Target numbers of connections."""

    total: int
    relay_out: int
    relay_in: int
    service: int

    @classmethod
    def of(cls, max_connections: int, for_relay: int) -> Targets:
        """Split `max_connections`: `for_relay` for relay peers (0: relay is off), the rest for services."""
        # Behind a NAT there are no inbound peers: with at least D outbound ones we have a mesh even so.
        out = min(for_relay, max(ceil(for_relay / 3), _MESH.d))
        return cls(max_connections, out, for_relay - out, max_connections - for_relay)


@dataclass(frozen=True, slots=True)
class Connected:
    """A connected peer as seen by the plan. `age` is in seconds."""

    peer_id: str
    outbound: bool
    group: str
    age: float
    relay: bool = False
    """It supports relay. False also while its protocols are unknown (`identified` False)."""
    identified: bool = True
    shards: frozenset[int] = frozenset()
    services: frozenset[str] = frozenset()
    in_mesh: bool = False
    score: float = 0.0
    protected: bool = False
    """It was configured by the operator, or a request is in progress."""


@dataclass(frozen=True, slots=True)
class PeerNeeds:
    """What the node needs now."""

    cluster: int
    shards: frozenset[int]
    """The shards that the node is on."""
    services: frozenset[str]
    """The services of other nodes that it may use; keys of `SERVICES`."""
    relay: bool = True


class Plan(NamedTuple):
    """The actions: peers to dial, best first, and peers to disconnect, with the reason."""

    dial: list[KnownPeer]
    evict: list[tuple[str, str]]
    short: bool
    """Something wanted is still missing: discovery should look for more peers."""
    short_shards: Set[int] = frozenset()
    """Shards with fewer connected relay peers than wanted."""
    short_services: Set[str] = frozenset()


class _Places:
    """The open slots: what is wanted and not yet connected."""

    def __init__(self, connected: Sequence[Connected], wanted: PeerNeeds, targets: Targets) -> None:
        self.on_shard: Counter[int] = Counter()
        serving: Counter[str] = Counter()
        for peer in connected:
            serving.update(peer.services)
            if peer.relay:
                self.on_shard.update(peer.shards)
        self.lacking = frozenset(
            shard for shard in wanted.shards if wanted.relay and self.on_shard[shard] < SHARD_PEERS
        )
        missing = {name: SERVICE_PEERS - serving[name] for name in wanted.services}
        self.missing = {name: count for name, count in missing.items() if count > 0}
        relay_out = sum(peer.outbound and (peer.relay or not peer.identified) for peer in connected)
        service_out = sum(peer.outbound and peer.identified and not peer.relay for peer in connected)
        self.relay = targets.relay_out - relay_out if wanted.relay else 0
        self.service = targets.service - service_out

    def take(self, peer: KnownPeer) -> bool:
        """Assign a peer to a slot. Return whether there was one."""
        serves = [name for name in self.missing if _serves(peer, name)]
        if self.relay > 0 and _relays(peer):
            self.relay -= 1
        elif serves and self.service > 0:
            self.service -= 1
        else:
            return False
        for name in serves:
            self.missing[name] -= 1
            if not self.missing[name]:
                del self.missing[name]
        return True


def plan(
    known: Iterable[KnownPeer],
    connected: Sequence[Connected],
    wanted: PeerNeeds,
    targets: Targets,
    *,
    now: float,
    dialling: Mapping[str, KnownPeer],
    at_once: int,
    per_group: int,
    online: bool,
    rng: Random,
) -> Plan:
    """Compute the next actions.

    `dialling` are the peers being dialled, by id; `at_once` limits their number; `per_group` limits the
    connections per address group (0: no limit).
    """
    places = _Places(connected, wanted, targets)
    lacking, short_services = places.lacking, frozenset(places.missing)
    surplus = _surplus(connected, wanted, places)
    may_grow = places.relay > 0 or bool(surplus)
    short = bool(short_services) or (wanted.relay and may_grow and bool(lacking or not wanted.shards))
    there = {peer.peer_id for peer in connected}
    groups = Counter(peer.group for peer in connected)
    for peer in dialling.values():
        places.take(peer)
        groups[peer.group] += 1
    at_once = at_once if online else min(at_once, AT_ONCE_OFFLINE)
    room = min(at_once, targets.total - len(there)) - len(dialling)
    chosen: list[KnownPeer] = []
    turned_away = False
    again = 0
    for candidate in _ranked(known, wanted, places, there, dialling, now, rng):
        if len(chosen) >= room:
            break
        if per_group and groups[candidate.group] >= per_group:
            continue
        if candidate.failures and chosen and (again := again + 1) > MAX_AGAIN:
            continue
        if places.take(candidate):
            groups[candidate.group] += 1
            chosen.append(candidate)
        else:
            turned_away = turned_away or not lacking.isdisjoint(candidate.shards)
    evict = _evictions(connected, wanted, targets)
    if turned_away and surplus and not evict and not dialling:
        # One at a time: its replacement may be on several of the shards that lack peers.
        evict.append((surplus[0].peer_id, "its shards have enough peers while others lack some"))
    return Plan(chosen, evict, short, lacking, short_services)


def _relays(peer: KnownPeer) -> bool:
    """Return whether the peer may support relay, unless its capabilities or protocols say otherwise."""
    if peer.protocols:
        return any("/waku/relay/" in one for one in peer.protocols)
    return not peer.capabilities or bool(peer.capabilities & Capability.RELAY)


def _serves(peer: KnownPeer, name: str) -> bool:
    service = SERVICES[name]
    if peer.protocols:
        return service.protocol in peer.protocols
    # A peer with unknown capabilities may offer anything.
    return not peer.capabilities or bool(peer.capabilities & service.bit)


def _ranked(
    known: Iterable[KnownPeer],
    wanted: PeerNeeds,
    places: _Places,
    there: Set[str],
    dialling: Mapping[str, KnownPeer],
    now: float,
    rng: Random,
) -> list[KnownPeer]:
    """Return the peers that may be dialled and are useful, best first.

    Peers that worked last time come first, the most useful ahead. The others take turns: failed ones as one
    queue, never tried ones by source. A source that reports thousands of excellent peers so gets no more of
    our dials than one that reports a few.
    """
    ranked: list[tuple[tuple[float, ...], KnownPeer]] = []
    for peer in known:
        if not peer.is_due(now) or peer.peer_id in there or peer.peer_id in dialling:
            continue
        if peer.cluster is not None and peer.cluster != wanted.cluster:
            continue
        use = _use(peer, wanted, places)
        if not use:
            continue
        key = (
            peer.failures > 0,  # working peers before failed ones, however useful
            -use,
            peer.failures,
            not peer.last_success,
            peer.last_attempt if peer.failures or not peer.last_success else -peer.last_success,
            rng.random(),
        )
        ranked.append((key, peer))
    ranked.sort(key=lambda pair: pair[0])
    # Dials in progress have had their turn; otherwise names that fail at once would always be next.
    waiting = Counter(map(_queue, dialling.values()))
    turns: list[tuple[int, float]] = []
    for place, (_, peer) in enumerate(ranked):
        if (queue := _queue(peer)) == _WORKS:
            turns.append((-1, place))
        else:
            turns.append((waiting[queue], rng.random()))
            waiting[queue] += 1
    order = sorted(range(len(ranked)), key=turns.__getitem__)
    return [ranked[at][1] for at in order]


_WORKS: Final = ""


def _queue(peer: KnownPeer) -> str:
    """Return the queue in which a peer waits for its turn; "" for a peer that worked last time."""
    if peer.last_success:
        return "worked once" if peer.failures else _WORKS
    return "never worked" if peer.failures else f"reported by {peer.source}"


def _use(peer: KnownPeer, wanted: PeerNeeds, places: _Places) -> int:
    """Rank the usefulness of a peer; 0: useless."""
    use = 0
    if not wanted.shards or not peer.shards:
        use = 1
    elif not places.lacking.isdisjoint(peer.shards):
        use = 2 + min(len(places.lacking.intersection(peer.shards)), 8)
    elif not wanted.shards.isdisjoint(peer.shards):
        use = 1
    if any(_serves(peer, name) for name in places.missing):
        use += 2
    return use


def _surplus(connected: Sequence[Connected], wanted: PeerNeeds, places: _Places) -> list[Connected]:
    """While a shard lacks peers, return the outbound peers that are dispensable, least useful first."""
    if not places.lacking:
        return []
    there = [
        peer
        for peer in connected
        if peer.outbound
        and peer.relay
        and not peer.protected
        and not peer.in_mesh
        and peer.age >= SETTLE
        and peer.shards
        and places.lacking.isdisjoint(peer.shards)
        and all(places.on_shard[shard] > SHARD_PEERS for shard in peer.shards & wanted.shards)
        and not peer.services & wanted.services
    ]
    return sorted(there, key=lambda peer: _worth(peer, wanted))


def _evictions(connected: Sequence[Connected], wanted: PeerNeeds, targets: Targets) -> list[tuple[str, str]]:
    """Return the least useful inbound peers in excess of their share."""
    settled = [peer for peer in connected if peer.identified]
    inbound = [peer for peer in settled if not peer.outbound]
    relay_in = [peer for peer in inbound if peer.relay]
    clients = [peer for peer in inbound if not peer.relay]
    over: list[tuple[str, str]] = []
    # Unused capacity may be used: limits apply only when connections run out.
    if len(connected) >= targets.total - max(1, targets.relay_out // 4):
        for group, share, name in (
            (relay_in, targets.relay_in, "inbound relay peers"),
            (clients, targets.service, "service clients"),
        ):
            excess = len(group) - share
            worst = sorted(
                (peer for peer in group if not peer.protected and peer.age >= SETTLE),
                key=lambda peer: _worth(peer, wanted),
            )
            over += [(peer.peer_id, f"too many {name}") for peer in worst[: max(0, excess)]]
    # Outbound slots are reserved for shards we are on.
    out = [peer for peer in settled if peer.outbound and peer.relay]
    if wanted.shards and len(out) >= targets.relay_out:
        useless = [
            peer
            for peer in out
            if not peer.protected
            and peer.age >= SETTLE
            and peer.shards
            and peer.shards.isdisjoint(wanted.shards)
            and not peer.services & wanted.services
        ]
        over += [(peer.peer_id, "on none of our shards") for peer in useless]
    return over


def _worth(peer: Connected, wanted: PeerNeeds) -> tuple[float, ...]:
    return (
        peer.score >= 0,
        peer.in_mesh,
        not peer.services.isdisjoint(wanted.services),
        not peer.shards.isdisjoint(wanted.shards),
        peer.score,
        peer.age,
    )
