"""Mesh upkeep, GRAFT and PRUNE, back-offs, fan-out, subscriptions."""

from __future__ import annotations

import pytest

from kernel_proc.relay.params import ScoreParams
from kernel_proc.relay.rpc import Prune, Subscription
from tests.unit.kernel_proc.relay.core import Core, T, U


def test_joining_grafts_d_peers_and_notifies_all() -> None:
    core = Core()
    core.peers(10, T)
    core.router.subscribe(T, core.now)
    sent = core.sent()
    assert len(core.mesh()) == 6
    assert {p for p, out in sent.items() if out.control.graft == [T]} == core.mesh()
    assert all(out.subscriptions == [Subscription(True, T)] for out in sent.values())
    assert len(sent) == 10


def test_peers_of_other_topics_are_not_grafted() -> None:
    core = Core()
    core.peers(3, U)
    core.router.subscribe(T, core.now)
    core.beat()
    assert core.mesh() == set()


def test_a_peer_that_subscribes_later_is_grafted_at_once_while_the_mesh_is_small() -> None:
    core = Core()
    core.router.subscribe(T, core.now)
    core.peers(1, T)
    assert core.mesh() == {"p0"}
    assert core.sent()["p0"].control.graft == [T]


def test_a_mesh_below_d_low_is_filled_to_d_and_one_at_d_low_is_left() -> None:
    core = Core(d_out=0)
    core.router.subscribe(T, core.now)
    core.peers(4)
    for n in range(4):
        core.gets(f"p{n}", graft=[T])
    core.peers(10, T, first=4)
    core.beat()
    assert len(core.mesh()) == 4
    core.prunes("p0")
    core.beat()
    assert len(core.mesh()) == 6


def test_a_mesh_above_d_high_is_pruned_to_d() -> None:
    core = Core(d_out=0)
    core.router.subscribe(T, core.now)
    core.peers(9, outbound=True)
    for n in range(9):
        core.gets(f"p{n}", graft=[T])
    assert len(core.mesh()) == 9
    core.sent()
    core.beat()
    assert len(core.mesh()) == 6
    prunes = core.sent_to(lambda c: c.prune)
    assert prunes == {f"p{n}": [Prune(T, 60)] for n in range(9) if f"p{n}" not in core.mesh()}


def test_the_cut_keeps_the_best_scores() -> None:
    core = Core(d_out=0)
    core.router.subscribe(T, core.now)
    core.peers(12, outbound=True)
    for n in range(12):
        core.gets(f"p{n}", graft=[T])
    for n in range(6, 12):
        core.receive(f"p{n}", b"%d" % n)
    core.beat()
    assert core.mesh() == {f"p{n}" for n in range(6, 12)}


def test_the_cut_keeps_d_out_outbound_peers_although_their_scores_are_lower() -> None:
    core = Core()
    core.router.subscribe(T, core.now)
    for n in range(8):
        core.peers(1, first=n)
        core.gets(f"p{n}", graft=[T])
        core.receive(f"p{n}", b"%d" % n)
    core.peers(4, outbound=True, first=8)
    for n in range(8, 12):
        core.gets(f"p{n}", graft=[T])
    core.beat()
    assert len(core.mesh()) == 6
    assert len(core.mesh() & {"p8", "p9", "p10", "p11"}) == 3


def test_too_few_outbound_peers_are_made_up_for() -> None:
    core = Core()
    core.router.subscribe(T, core.now)
    core.peers(5)
    for n in range(5):
        core.gets(f"p{n}", graft=[T])
    core.peers(5, T, outbound=True, first=5)
    core.beat()
    assert len(core.mesh() - {f"p{n}" for n in range(5)}) == 3


def test_a_graft_is_refused_by_a_full_mesh_unless_we_dialled_the_peer() -> None:
    core = Core()
    core.router.subscribe(T, core.now)
    core.peers(9)
    for n in range(9):
        core.gets(f"p{n}", graft=[T])
    assert core.mesh() == {f"p{n}" for n in range(8)}
    assert core.sent_to(lambda c: c.prune) == {"p8": [Prune(T, 60)]}
    core.peers(1, outbound=True, first=9)
    core.gets("p9", graft=[T])
    assert "p9" in core.mesh()


def test_a_graft_for_a_topic_we_are_not_on_is_not_answered() -> None:
    core = Core()
    core.peers(1)
    core.gets("p0", graft=[U])
    assert core.sent() == {}


def test_a_peer_with_a_negative_score_is_not_grafted_and_leaves_the_mesh() -> None:
    core = Core()
    core.router.subscribe(T, core.now)
    core.peers(2, T)
    core.sent()
    core.router.reject(core.peer("p0"), core.topic(), core.now)
    core.beat()
    assert core.mesh() == {"p1"}
    assert core.sent_to(lambda c: c.prune) == {"p0": [Prune(T, 60)]}
    core.now += 61
    core.gets("p0", graft=[T])
    assert core.mesh() == {"p1"}
    assert core.sent_to(lambda c: c.prune) == {"p0": [Prune(T, 60)]}


# -- back-off ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("back_off", [60, None], ids=["named", "default"])
def test_a_pruned_peer_is_grafted_again_only_after_its_back_off(back_off: int | None) -> None:
    core = Core()
    core.router.subscribe(T, core.now)
    core.peers(1, T)
    core.prunes("p0", back_off)
    core.beat(60)
    assert core.mesh() == set()
    core.beat(2)
    assert core.mesh() == {"p0"}


def test_a_reconnect_does_not_end_a_back_off() -> None:
    """nwaku answers a GRAFT inside its back-off with PRUNE(60), also on a new connection."""
    core = Core()
    core.router.subscribe(T, core.now)
    core.peers(1, T)
    core.prunes("p0", 60)
    core.now += 5
    core.router.remove_peer("p0", core.now)
    core.peers(1, T)
    core.router.describe_peer("p0", None, same_implementation=True, now=core.now)
    core.beat(54)
    assert core.mesh() == set()
    core.beat(3)
    assert core.mesh() == {"p0"}


def test_a_graft_inside_the_back_off_is_refused_penalised_and_starts_it_again() -> None:
    core = Core()
    core.router.subscribe(T, core.now)
    core.peers(9)
    for n in range(9):
        core.gets(f"p{n}", graft=[T])  # the ninth is refused: a back-off of 60 s
    core.sent()
    for n in range(8):
        core.router.remove_peer(f"p{n}", core.now)
    for _ in range(5):
        core.gets("p8", graft=[T])
    assert core.score("p8") == pytest.approx(-10 * 0.5**2)
    assert core.sent_to(lambda c: c.prune) == {"p8": [Prune(T, 60)] * 5}
    core.now += 59.9
    core.gets("p8", graft=[T])
    assert core.mesh() == set()


def test_leaving_prunes_with_the_short_back_off_and_binds_us_too() -> None:
    core = Core()
    core.router.subscribe(T, core.now)
    core.peers(2, T)
    core.sent()
    core.router.unsubscribe(T, core.now)
    sent = core.sent()
    assert {p: out.control.prune for p, out in sent.items()} == {
        "p0": [Prune(T, 5)],
        "p1": [Prune(T, 5)],
    }
    assert all(out.subscriptions == [Subscription(False, T)] for out in sent.values())
    core.router.subscribe(T, core.now)
    core.beat(5)
    assert core.mesh() == set()
    core.beat(2)
    assert core.mesh() == {"p0", "p1"}


def test_a_wild_number_of_back_offs_stays_bounded() -> None:
    core = Core(max_backoffs=100)
    core.router.subscribe(T, core.now)
    for n in range(300):
        core.peers(1, first=n)
        core.prunes(f"p{n}", 3600)
        core.router.remove_peer(f"p{n}", core.now)
    assert core.router.counters()["backoffs"] == 100


# -- connections and streams -------------------------------------------------------------------------------


def test_a_new_stream_begins_with_subscriptions_and_mesh() -> None:
    core = Core()
    core.router.subscribe(T, core.now)
    core.router.subscribe(U, core.now)
    core.peers(1, T)
    hello = core.router.hello("p0", core.now)
    assert hello.subscriptions == [Subscription(True, T), Subscription(True, U)]
    assert hello.control.graft == [T]


def test_subscriptions_not_repeated_on_a_new_stream_expire() -> None:
    core = Core()
    core.router.subscribe(T, core.now)
    core.router.subscribe(U, core.now)
    core.peers(1, T, U)
    core.router.stream_replaced("p0", core.now)
    core.subscribed("p0", T)
    core.beat(9)
    assert core.router.topic_peers(U) == ["p0"]
    core.beat(1)
    assert core.router.topic_peers(U) == []
    assert core.mesh(U) == set()
    assert core.mesh(T) == {"p0"}


def test_a_peer_that_leaves_is_forgotten_everywhere() -> None:
    core = Core()
    core.router.subscribe(T, core.now)
    core.peers(2, T)
    core.gets("p1", graft=[T])
    core.router.remove_peer("p0", core.now)
    core.router.remove_peer("p1", core.now)
    assert core.mesh() == set()
    assert core.router.topic_peers(T) == []
    assert core.sent() == {}
    core.beat(5)


def test_a_peer_cannot_make_us_remember_endless_topics() -> None:
    core = Core(max_topics_per_peer=10)
    core.peers(1)
    core.subscribed("p0", *(f"t{n}" for n in range(50)))
    assert len(core.peer("p0").topics) == 10
    assert core.router.counters()["topics_over_limit"] == 40


def test_changes_of_mesh_and_subscribers_are_reported_once() -> None:
    core = Core()
    core.router.subscribe(T, core.now)
    assert core.router.take_changed() == {T}
    core.peers(1, T, U)
    assert core.router.take_changed() == {T, U}
    core.prunes("p0")
    assert core.router.take_changed() == {T}
    core.beat()
    assert core.router.take_changed() == set()


# -- recipients of our own messages --------------------------------------------------------------------------


def test_flood_publish_reaches_every_peer_of_the_topic_that_is_good_enough() -> None:
    core = Core()
    core.router.subscribe(T, core.now)
    core.peers(20, T)
    core.peers(3, U, first=20)
    for _ in range(4):
        core.router.reject(core.peer("p3"), core.topic(), core.now)  # -1600
    assert set(core.publish(b"m").targets) == {f"p{n}" for n in range(20)} - {"p3"}


def test_flood_publish_needs_no_subscription_of_ours() -> None:
    core = Core()
    core.peers(3, T)
    assert set(core.publish(b"m").targets) == {"p0", "p1", "p2"}


def test_without_flood_publish_the_mesh_gets_it() -> None:
    core = Core(flood_publish=False)
    core.router.subscribe(T, core.now)
    core.peers(20, T)
    core.beat()
    assert set(core.publish(b"m").targets) == core.mesh()


def test_colocated_peers_are_not_punished_on_an_exempt_address() -> None:
    core = Core(score=ScoreParams(colocation_exempt=frozenset({"127.0.0.1"})))
    for n in range(20):
        core.router.add_peer(f"q{n}", "127.0.0.1", core.now, outbound=False)
    assert core.score("q0") == 0


@pytest.mark.parametrize(("limit", "meshed"), [(0, 4), (5, 0)])
def test_peers_behind_one_address_and_the_limit_for_it(limit: int, meshed: int) -> None:
    core = Core(score=ScoreParams(colocation_threshold=limit))
    core.router.subscribe(T, core.now)
    for n in range(20):
        core.router.add_peer(f"p{n}", "10.0.0.1", core.now, outbound=False)
        core.subscribed(f"p{n}", T)
    core.beat(3)
    assert len(core.mesh()) == meshed
    assert bool(core.router.take_bad_peers()) is (limit > 0)
