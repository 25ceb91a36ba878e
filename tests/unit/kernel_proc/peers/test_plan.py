"""Which peers the peer manager dials and disconnects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from kernel_proc.discovery.enr_values import Capability
from kernel_proc.peers.known import KnownPeer
from kernel_proc.peers.plan import SERVICES, Connected, PeerNeeds, Plan, Targets, plan

NOW = 1_800_000_000.0
WANTED = PeerNeeds(2, frozenset({1}), frozenset())


def known(number: int, **more: object) -> KnownPeer:
    group = str(more.pop("group", f"10.0.{number >> 8}.{number & 255}"))
    return KnownPeer(f"p{number}", (f"/ip4/{group}/tcp/1/p2p/p{number}",), group=group, **more)  # type: ignore[arg-type]


def relay_peer(number: int, **more: object) -> Connected:
    base = Connected(f"c{number}", outbound=False, group=f"c{number}", age=100.0, relay=True)
    return replace(base, **more)  # type: ignore[arg-type]


def step(
    peers: Sequence[KnownPeer],
    connected: Sequence[Connected] = (),
    wanted: PeerNeeds = WANTED,
    targets: Targets | None = None,
    *,
    dialling: Sequence[KnownPeer] = (),
    at_once: int = 10,
    per_group: int = 0,
    online: bool = True,
) -> Plan:
    return plan(
        peers,
        connected,
        wanted,
        targets or Targets.of(150, 75),
        now=NOW,
        dialling={peer.peer_id: peer for peer in dialling},
        at_once=at_once,
        per_group=per_group,
        online=online,
        rng=Random(1),
    )


def names(made: Plan) -> list[str]:
    return [peer.peer_id for peer in made.dial]


def test_the_options_change_the_targets() -> None:
    assert Targets.of(150, 75) == Targets(150, 25, 50, 75)
    assert Targets.of(150, 120) == Targets(150, 40, 80, 30)
    assert Targets.of(30, 15) == Targets(30, 6, 9, 15), "D of its own, for who gets no others"
    assert Targets.of(16, 8) == Targets(16, 6, 2, 8)
    assert Targets.of(10, 0) == Targets(10, 0, 0, 10)


def test_dials_stop_at_the_target_and_at_the_number_at_once() -> None:
    many = [known(number, cluster=2, shards=(1,)) for number in range(100)]
    assert len(names(step(many))) == 10
    out = [relay_peer(number, outbound=True, shards=frozenset({1})) for number in range(24)]
    assert len(names(step(many, out))) == 1
    small = Targets.of(16, 8)
    assert len(names(step(many, out[:1], targets=small))) == 5


def test_peers_of_our_shards_come_first_and_those_of_others_not_at_all() -> None:
    peers = [
        known(1, cluster=2, shards=(5,)),
        known(2),
        known(3, cluster=2, shards=(1,)),
        known(4, cluster=9, shards=(1,)),
    ]
    assert names(step(peers)) == ["p3", "p2"]
    assert set(names(step(peers, wanted=replace(WANTED, shards=frozenset())))) == {"p1", "p2", "p3"}


def test_what_works_comes_before_what_does_not_however_much_of_that_there_is() -> None:
    bogus = [known(number, failures=3, cluster=2, shards=(1,)) for number in range(10_000)]
    good = [known(20_000 + number, cluster=2, shards=(1,), last_success=NOW - 60) for number in range(5)]
    chosen = names(step(bogus + good))
    assert set(chosen[:5]) == {peer.peer_id for peer in good}
    assert len(chosen) <= 8, "failing ones never take all places while others may come"


def test_a_peer_in_back_off_is_not_dialled() -> None:
    assert names(step([known(1, retry_at=NOW + 1)])) == []
    assert names(step([known(1, retry_at=NOW)])) == ["p1"]
    assert names(step([known(1)], [relay_peer(1, peer_id="p1")])) == []


def test_one_place_gets_no_more_than_its_connections() -> None:
    peers = [known(number, group="192.0.2.1") for number in range(20)]
    there = [relay_peer(1, group="192.0.2.1")]
    assert len(names(step(peers, there, per_group=3))) == 2


def test_offline_few_are_tried() -> None:
    peers = [known(number) for number in range(20)]
    assert len(names(step(peers, online=False))) == 3


def test_dials_in_progress_occupy_their_slots() -> None:
    many = [known(number, cluster=2, shards=(1,)) for number in range(100)]
    out = [relay_peer(number, outbound=True, shards=frozenset({1})) for number in range(20)]
    assert len(names(step(many[5:], out, dialling=many[:5]))) == 0
    assert len(names(step(many[4:], out, dialling=many[:4]))) == 1
    assert len(names(step(many[4:], dialling=many[:4]))) == 6, "at once"
    assert names(step(many[3:], dialling=many[:3], online=False)) == []


def test_a_source_that_reports_thousands_does_not_starve_the_others() -> None:
    bogus = [known(number, cluster=2, shards=(1,), source="liar") for number in range(5000)]
    good = [known(6000 + number, cluster=2, shards=(1,), source="friend") for number in range(5)]
    chosen = names(step(bogus + good))
    assert {peer.peer_id for peer in good} <= set(chosen)
    assert len(chosen) == 10, "the liar may still be right"
    proven = [known(7000, cluster=2, shards=(1,), last_success=NOW - 60, source="liar")]
    assert "p7000" in names(step(bogus + good + proven, at_once=3))
    # Nor by praising them: all services, and dials that fail at once and are free for the next.
    wonders = [replace(peer, capabilities=15) for peer in bogus]
    modest = known(6000, cluster=2, shards=(1,), capabilities=1, source="friend")
    wanted = replace(WANTED, services=frozenset(SERVICES))
    assert "p6000" in names(step([*wonders[9:], modest], wanted=wanted, dialling=wonders[:9]))


def test_one_failure_does_not_put_a_peer_behind_thousands_of_untried_ones() -> None:
    bogus = [known(number, cluster=2, shards=(1,), source="liar") for number in range(5000)]
    once = known(6000, cluster=2, shards=(1,), last_success=NOW - 60, failures=1)
    never = known(6001, cluster=2, shards=(1,), failures=7)
    chosen = names(step([*bogus, once, never]))
    assert {"p6000", "p6001"} <= set(chosen)
    assert len(chosen) == 10


def test_a_shard_short_of_peers_gets_a_slot_from_one_with_too_many() -> None:
    wanted = replace(WANTED, shards=frozenset({1, 2}))
    targets = Targets(total=150, relay_out=14, relay_in=61, service=75)
    busy = relay_peer(0, outbound=True, shards=frozenset({1}), protected=True, score=-1.0)
    meshed = relay_peer(1, outbound=True, shards=frozenset({1}), in_mesh=True, score=-1.0)
    rest = [relay_peer(number, outbound=True, shards=frozenset({1})) for number in range(2, 13)]
    worst = relay_peer(13, outbound=True, shards=frozenset({1}), score=-0.5)
    full = [busy, meshed, *rest, worst]
    other = known(1, cluster=2, shards=(2,))
    made = step([other], full, wanted=wanted, targets=targets)
    assert (made.dial, [peer for peer, _ in made.evict]) == ([], ["c13"])
    assert made.short
    assert step([], full, wanted=wanted, targets=targets).evict == [], "no replacement is known"
    assert step([other], full[:-1], wanted=wanted, targets=targets).dial == [other]
    assert step([other], full[:12], wanted=wanted, targets=replace(targets, relay_out=12)).evict == [], (
        "twelve are what the first shard needs itself"
    )


def test_no_peers_are_sought_when_no_slot_is_free() -> None:
    targets = Targets(total=16, relay_out=6, relay_in=2, service=8)
    full = [relay_peer(number, outbound=True, shards=frozenset({1})) for number in range(6)]
    made = step([known(1)], full, targets=targets)
    assert made.short_shards == {1}
    assert not made.short


def test_an_edge_node_looks_for_services_only() -> None:
    wanted = PeerNeeds(2, frozenset(), frozenset(SERVICES), relay=False)
    targets = Targets.of(50, 0)
    peers = [
        known(1, capabilities=int(Capability.RELAY)),
        known(2, capabilities=int(Capability.RELAY | Capability.STORE)),
        known(3, capabilities=int(Capability.FILTER | Capability.LIGHTPUSH)),
        *(known(number, capabilities=int(Capability.STORE)) for number in range(10, 20)),
    ]
    made = step(peers, wanted=wanted, targets=targets)
    assert "p1" not in names(made)
    assert "p3" in names(made)
    assert len(made.dial) == 4, "three for the store, one for the rest"
    assert made.short
    assert made.short_services == set(SERVICES), "also while they are being dialled"
    there = [
        Connected(f"c{n}", outbound=True, group=str(n), age=60, services=frozenset(SERVICES))
        for n in range(3)
    ]
    done = step(peers, there, wanted=wanted, targets=targets)
    assert done.dial == []
    assert not done.short
    assert not done.short_services


def test_a_node_short_of_mesh_peers_says_so() -> None:
    alone = step([])
    assert alone.short
    assert alone.short_shards == {1}
    enough = [relay_peer(number, shards=frozenset({1})) for number in range(12)]
    assert not step([], enough).short


def test_inbound_peers_over_their_share_go_the_least_useful_first() -> None:
    targets = Targets(total=20, relay_out=4, relay_in=10, service=6)
    good = [relay_peer(number, shards=frozenset({1}), in_mesh=True) for number in range(10)]
    bad = relay_peer(50, score=-5.0, in_mesh=True)
    idle = relay_peer(51)
    new = relay_peer(52, age=1.0)
    mine = relay_peer(53, protected=True, score=-50.0)
    clients = [relay_peer(number, relay=False) for number in range(60, 66)]
    gone = step([], [*good, bad, idle, new, mine, *clients], targets=targets).evict
    assert [peer for peer, _ in gone] == ["c50", "c51", *[p for p, _ in gone[2:]]]
    assert {"c52", "c53"}.isdisjoint(peer for peer, _ in gone)
    assert len(gone) == 4
    assert step([], [*good, bad, idle], targets=targets).evict == [], "there is still room"


def test_own_places_are_for_own_shards() -> None:
    targets = Targets(total=150, relay_out=3, relay_in=72, service=75)
    fitting = [relay_peer(number, outbound=True, shards=frozenset({1})) for number in range(2)]
    other = relay_peer(9, outbound=True, shards=frozenset({7}))
    assert [peer for peer, _ in step([], [*fitting, other], targets=targets).evict] == ["c9"]
    assert step([], [fitting[0], other], targets=targets).evict == []
