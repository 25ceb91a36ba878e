"""Whom to connect to and whom to let go: the peer manager's policy. Pure.

The connections of a node are split between relay peers and service peers (`relay-service-ratio`); of the
relay ones a third is for peers that we chose ourselves, since those an attacker chose for us come by
themselves. What is wanted first: mesh candidates on shards that have too few, then service peers, then the
rest of the relay target.
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
from kernel_proc.relay.params import GossipParams

__all__ = ["SERVICES", "Connected", "Plan", "Targets", "Wanted", "plan"]

_MESH: Final = GossipParams()
SHARD_PEERS: Final = _MESH.d + _MESH.d_lazy
"""Connected relay peers to have on each shard we are on: D (6) for the mesh and D_lazy (6) to gossip with. So
the mesh is full even where half of those asked refuse, having enough of others, a back-off or our bad score.
A small network has fewer, and all of them."""
SERVICE_PEERS: Final = 3
"""Connected peers to have of each service that we use: one to ask, one to fall back on, one spare."""
SETTLE: Final = 20.0
"""Seconds in which a new connection is not judged: identify, metadata and the mesh need their time."""
MAX_AGAIN: Final = 3
"""Dials at once of peers that failed before, while others are waiting."""
AT_ONCE_OFFLINE: Final = 3
"""Dials under way while nothing of the network can be heard: enough to see that it is back."""


class Service(NamedTuple):
    """How a service shows: the bit of the record, the protocol that identify names."""

    bit: Capability
    protocol: str


SERVICES: Final[Mapping[str, Service]] = {
    "store": Service(Capability.STORE, store_codec.PROTOCOL),
    "filter": Service(Capability.FILTER, filter_codec.SUBSCRIBE_PROTOCOL),
    "lightpush": Service(Capability.LIGHTPUSH, lightpush_codec.PROTOCOL),
}


@dataclass(frozen=True, slots=True)
class Targets:
    """Numbers of connections."""

    total: int
    relay_out: int
    relay_in: int
    service: int

    @classmethod
    def of(cls, max_connections: int, for_relay: int) -> Targets:
        """Of all connections, `for_relay` for relay peers (0: relay is off), the rest for services."""
        # Who sits behind a NAT gets no others: with D of its own it has a mesh even so.
        out = min(for_relay, max(ceil(for_relay / 3), _MESH.d))
        return cls(max_connections, out, for_relay - out, max_connections - for_relay)


@dataclass(frozen=True, slots=True)
class Connected:
    """A connected peer as the plan sees it. `age` in seconds."""

    peer_id: str
    outbound: bool
    group: str
    age: float
    relay: bool = False
    """It speaks relay (None of its protocols known yet: False, and `identified` False)."""
    identified: bool = True
    shards: frozenset[int] = frozenset()
    services: frozenset[str] = frozenset()
    in_mesh: bool = False
    score: float = 0.0
    protected: bool = False
    """The operator named it, or something is under way with it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the node needs now."""

    cluster: int
    shards: frozenset[int]
    """Those it is on."""
    services: frozenset[str]
    """Those of other nodes that it may use; keys of `SERVICES`."""
    relay: bool = True


class Plan(NamedTuple):
    """What to do: whom to dial, best first, and whom to disconnect, with the reason."""

    dial: list[KnownPeer]
    evict: list[tuple[str, str]]
    short: bool
    """Something that is wanted is still missing: more peers should be looked for."""
    short_shards: Set[int] = frozenset()
    """Those with fewer connected relay peers than wanted."""
    short_services: Set[str] = frozenset()


class _Places:
    """What is wanted and not there yet, and the room for it."""

    def __init__(self, connected: Sequence[Connected], wanted: Wanted, targets: Targets) -> None:
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
        """Give the peer a place, if there is one that it fits."""
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
    wanted: Wanted,
    targets: Targets,
    *,
    now: float,
    dialling: Mapping[str, KnownPeer],
    at_once: int,
    per_group: int,
    online: bool,
    rng: Random,
) -> Plan:
    """The next step. `dialling` are the peers being dialled, by id; `at_once` how many may be; `per_group` is
    the limit of connections to one place (0: none)."""
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
        # One at a time: the peer that takes its place may be on more than one of the shards that lack peers.
        evict.append((surplus[0].peer_id, "its shards have enough peers, and others have not"))
    return Plan(chosen, evict, short, lacking, short_services)


def _relays(peer: KnownPeer) -> bool:
    """Unless what it said of itself shows that it does not."""
    if peer.protocols:
        return any("/waku/relay/" in one for one in peer.protocols)
    return not peer.capabilities or bool(peer.capabilities & Capability.RELAY)


def _serves(peer: KnownPeer, name: str) -> bool:
    service = SERVICES[name]
    if peer.protocols:
        return service.protocol in peer.protocols
    # A peer that has said nothing yet may offer anything.
    return not peer.capabilities or bool(peer.capabilities & service.bit)


def _ranked(
    known: Iterable[KnownPeer],
    wanted: Wanted,
    places: _Places,
    there: Set[str],
    dialling: Mapping[str, KnownPeer],
    now: float,
    rng: Random,
) -> list[KnownPeer]:
    """Those that may be dialled and are of use. First what worked last time, the most useful ahead. All
    others take turns: those that failed, and those never tried by their source. So a source that reports
    thousands, each of them a wonder, gets no more of our dials than who tells of a few."""
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
            peer.failures > 0,  # what works comes before what does not, whatever it would be good for
            -use,
            peer.failures,
            not peer.last_success,
            peer.last_attempt if peer.failures or not peer.last_success else -peer.last_success,
            rng.random(),
        )
        ranked.append((key, peer))
    ranked.sort(key=lambda pair: pair[0])
    # Dials under way have had their turn: else whose names fail at once would always be the next.
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
    """In which queue a peer waits for its turn; none if it worked last time, when it need not."""
    if peer.last_success:
        return "worked once" if peer.failures else _WORKS
    return "never worked" if peer.failures else f"reported by {peer.source}"


def _use(peer: KnownPeer, wanted: Wanted, places: _Places) -> int:
    """0: none."""
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


def _surplus(connected: Sequence[Connected], wanted: Wanted, places: _Places) -> list[Connected]:
    """While a shard lacks peers: those that we dialled and would not miss, the least useful first."""
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


def _evictions(connected: Sequence[Connected], wanted: Wanted, targets: Targets) -> list[tuple[str, str]]:
    """The least useful of those that came by themselves, where they are more than their share."""
    settled = [peer for peer in connected if peer.identified]
    inbound = [peer for peer in settled if not peer.outbound]
    relay_in = [peer for peer in inbound if peer.relay]
    clients = [peer for peer in inbound if not peer.relay]
    over: list[tuple[str, str]] = []
    # Room that is free may be used: limits bind only where the connections run out.
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
            over += [(peer.peer_id, f"more {name} than wanted") for peer in worst[: max(0, excess)]]
    # A place we gave ourselves is for shards we are on.
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


def _worth(peer: Connected, wanted: Wanted) -> tuple[float, ...]:
    return (
        peer.score >= 0,
        peer.in_mesh,
        not peer.services.isdisjoint(wanted.services),
        not peer.shards.isdisjoint(wanted.shards),
        peer.score,
        peer.age,
    )
