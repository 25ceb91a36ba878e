"""Whom to connect to and whom to let go: the peer manager's policy. Pure.

The connections of a node are split between relay peers and service peers (`relay-service-ratio`); of the
relay ones a third is for peers that we chose ourselves, since those an attacker chose for us come by
themselves. What is wanted first: mesh candidates on shards that have too few, then service peers, then the
rest of the relay target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from math import ceil
from random import Random
from typing import Final, NamedTuple

from kernel_proc.discovery.enr_values import Capability
from kernel_proc.peers.store import KnownPeer
from kernel_proc.protocols import lightpush_codec, store_codec
from kernel_proc.protocols.filter import codec as filter_codec

__all__ = ["SERVICES", "Connected", "Plan", "Targets", "Wanted", "plan"]

SHARD_PEERS: Final = 12
"""Connected relay peers to have on each shard we are on: D_high, so that the mesh can choose."""
SERVICE_PEERS: Final = 3
"""Connected peers to have of each service that we use: one to ask, one to fall back on, one spare."""
SETTLE: Final = 20.0
"""Seconds in which a new connection is not judged: identify, metadata and the mesh need their time."""
MAX_AGAIN: Final = 3
"""Dials at once of peers that failed before, while others are waiting."""


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
        out = ceil(for_relay / 3)
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
    """The operator named it, or it is at work for us."""


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


def plan(
    known: Iterable[KnownPeer],
    connected: Sequence[Connected],
    wanted: Wanted,
    targets: Targets,
    *,
    now: float,
    dialling: Mapping[str, str],
    at_once: int,
    per_group: int,
    online: bool,
    rng: Random,
) -> Plan:
    """The next step. `dialling` are the dials under way, peer id to group; `at_once` how many more may be
    started; `per_group` is the limit of connections to one place (0: none)."""
    there = {peer.peer_id for peer in connected}
    on_shard: Counter[int] = Counter()
    serving: Counter[str] = Counter()
    for peer in connected:
        serving.update(peer.services)
        if peer.relay:
            on_shard.update(peer.shards)
    relay_out = sum(peer.outbound and (peer.relay or not peer.identified) for peer in connected)
    lacking = {shard for shard in wanted.shards if on_shard[shard] < SHARD_PEERS} if wanted.relay else set()
    missing = {name: SERVICE_PEERS - serving[name] for name in wanted.services}
    missing = {name: count for name, count in missing.items() if count > 0}
    room_relay = targets.relay_out - relay_out if wanted.relay else 0
    service_only = sum(peer.outbound and peer.identified and not peer.relay for peer in connected)
    room_service = targets.service - service_only
    free = targets.total - len(there) - len(dialling)
    short_services = frozenset(missing)
    short = bool(missing) or (wanted.relay and (bool(lacking) or (not wanted.shards and room_relay > 0)))

    groups = Counter(peer.group for peer in connected)
    groups.update(dialling.values())
    chosen: list[KnownPeer] = []
    again = 0
    for candidate in _ranked(known, wanted, lacking, missing, there, dialling, now, rng):
        if len(chosen) >= min(at_once, free):
            break
        if per_group and groups[candidate.group] >= per_group:
            continue
        if candidate.failures and chosen and (again := again + 1) > MAX_AGAIN:
            continue
        gives = _gives(candidate)
        serves = {name for name in missing if _serves(candidate, name)}
        for_relay = room_relay > 0 and "relay" in gives
        if not for_relay and not (serves and room_service > 0):
            continue
        if for_relay:
            room_relay -= 1
        else:
            room_service -= 1
        for name in serves:
            missing[name] -= 1
            if not missing[name]:
                del missing[name]
        groups[candidate.group] += 1
        chosen.append(candidate)
    if not online:
        chosen = chosen[: max(2, at_once // 3)]
    return Plan(chosen, _evictions(connected, wanted, targets), short, frozenset(lacking), short_services)


def _gives(peer: KnownPeer) -> Collection[str]:
    """`relay`, unless what it said of itself shows that it does not."""
    if peer.protocols:
        return ("relay",) if any("/waku/relay/" in one for one in peer.protocols) else ()
    return () if peer.capabilities and not peer.capabilities & Capability.RELAY else ("relay",)


def _serves(peer: KnownPeer, name: str) -> bool:
    service = SERVICES[name]
    if peer.protocols:
        return service.protocol in peer.protocols
    # Of a peer that has told nothing yet anything may come.
    return not peer.capabilities or bool(peer.capabilities & service.bit)


def _ranked(
    known: Iterable[KnownPeer],
    wanted: Wanted,
    lacking: Set[int],
    missing: Collection[str],
    there: Collection[str],
    dialling: Collection[str],
    now: float,
    rng: Random,
) -> list[KnownPeer]:
    """Those that may be dialled and are of use, the most useful first."""
    ranked: list[tuple[tuple[float, ...], KnownPeer]] = []
    for peer in known:
        if not peer.is_due(now) or peer.peer_id in there or peer.peer_id in dialling:
            continue
        if peer.cluster is not None and peer.cluster != wanted.cluster:
            continue
        use = 0
        if not wanted.shards or not peer.shards:
            use = 1
        elif lacking and not lacking.isdisjoint(peer.shards):
            use = 2 + min(len(lacking & set(peer.shards)), 8)
        elif not wanted.shards.isdisjoint(peer.shards):
            use = 1
        if any(_serves(peer, name) for name in missing):
            use += 2
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
    return [peer for _, peer in ranked]


def _evictions(connected: Sequence[Connected], wanted: Wanted, targets: Targets) -> list[tuple[str, str]]:
    """The least useful of those that came by themselves, where they are more than their share."""
    settled = [peer for peer in connected if peer.identified]
    inbound = [peer for peer in settled if not peer.outbound]
    relay_in = [peer for peer in inbound if peer.relay]
    clients = [peer for peer in inbound if not peer.relay]
    over: list[tuple[str, str]] = []
    # Room that nobody uses may be used: limits bind only where the connections run out.
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
        not peer.shards.isdisjoint(wanted.shards),
        peer.score,
        peer.age,
    )
