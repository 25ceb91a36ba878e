"""The score table, number by number (the values of nwaku and go-waku)."""

from __future__ import annotations

import pytest

from kernel_proc.relay.params import ScoreParams
from kernel_proc.relay.scores import PeerScore, ScoreBook
from tests.unit.kernel_proc.relay.core import Core, T


def book(**params: object) -> tuple[ScoreBook, PeerScore]:
    scores = ScoreBook(ScoreParams(**params))  # type: ignore[arg-type]
    return scores, scores.connect("p", "10.0.0.1")


def decay(scores: ScoreBook, times: int = 1) -> None:
    scores.tick(0)
    for n in range(1, times + 1):
        scores.tick(12.0 * n)


def test_time_in_mesh_counts_a_hundredth_per_second_up_to_ten() -> None:
    scores, p = book()
    scores.grafted(p, T, 100.0)
    assert scores.score(p, 105.0) == pytest.approx(0.05)
    assert scores.score(p, 1000.0) == pytest.approx(0.1)
    scores.pruned(p, T)
    assert scores.score(p, 1000.0) == 0


def test_first_deliveries_count_one_each_up_to_ten_and_halve() -> None:
    scores, p = book()
    for _ in range(25):
        scores.delivered_first(p, T)
    assert scores.score(p, 0) == 10
    decay(scores)
    assert scores.score(p, 0) == 5


def test_the_best_score_is_ten_and_a_tenth() -> None:
    scores, p = book()
    scores.grafted(p, T, 0)
    for _ in range(25):
        scores.delivered_first(p, T)
    assert scores.score(p, 300) == pytest.approx(10.1)


def test_invalid_messages_count_squared_and_halve() -> None:
    """Three of them, one decay later, are the -225 that nwaku showed."""
    scores, p = book()
    for _ in range(3):
        scores.delivered_invalid(p, T)
    assert scores.score(p, 0) == -900
    decay(scores)
    assert scores.score(p, 0) == -225


def test_colocation_counts_the_surplus_over_five_squared() -> None:
    scores, p = book()
    for n in range(4):
        scores.connect(f"q{n}", "10.0.0.1")
    assert scores.score(p, 0) == 0
    for n in range(4, 7):
        scores.connect(f"q{n}", "10.0.0.1")
    assert scores.score(p, 0) == -50 * 3**2
    scores.disconnect("q6", 0)
    assert scores.score(p, 0) == -50 * 2**2


def test_misbehaviour_counts_squared_and_fades_slowly() -> None:
    """Five GRAFTs inside a back-off, two decays later: the -2.43 that nwaku showed is -2.5 · 0.986²."""
    scores, p = book()
    for _ in range(5):
        scores.misbehaved(p, 0.1)
    assert scores.score(p, 0) == pytest.approx(-2.5)
    decay(scores)
    assert scores.score(p, 0) == pytest.approx(-2.43, abs=0.005)


def test_small_counters_become_zero() -> None:
    scores, p = book()
    scores.delivered_invalid(p, T)
    decay(scores, 7)
    assert scores.score(p, 0) == 0


def test_a_negative_score_outlives_the_connection_for_ten_minutes() -> None:
    scores, p = book()
    for _ in range(3):
        scores.delivered_invalid(p, T)
    scores.disconnect("p", 1000.0)
    scores.tick(1500.0)
    assert scores.score(scores.connect("p", "10.0.0.2"), 1500.0) == -900
    scores.disconnect("p", 1500.0)
    scores.tick(2101.0)
    assert scores.score(scores.connect("p", "10.0.0.2"), 2101.0) == 0


def test_a_positive_score_does_not_outlive_the_connection() -> None:
    scores, p = book()
    scores.delivered_first(p, T)
    scores.disconnect("p", 0)
    assert len(scores) == 0


def test_retained_scores_are_bounded() -> None:
    scores, _ = book(max_retained=10)
    for n in range(50):
        scores.delivered_invalid(scores.connect(f"q{n}", "10.0.0.9"), T)
        scores.disconnect(f"q{n}", 0)
    assert len(scores) == 11


def test_below_the_graylist_threshold_a_peer_is_reported_once_and_flagged() -> None:
    core = Core()
    core.router.subscribe(T, core.now)
    core.peers(1, T)
    for n in range(11):
        assert core.router.take_bad_peers() == []
        assert not core.peer("p0").graylisted
        core.router.reject(core.peer("p0"), core.topic(), core.now)
        if n == 10:
            break
    assert core.score("p0") < -10_000
    assert core.router.take_bad_peers() == ["p0"]
    assert core.peer("p0").graylisted
    core.beat()
    assert core.router.take_bad_peers() == []
    core.beat(12)  # a decay later it is above the threshold again
    assert not core.peer("p0").graylisted


def test_a_graylisted_peer_that_redials_is_still_graylisted() -> None:
    core = Core()
    core.router.subscribe(T, core.now)
    core.peers(1, T)
    for _ in range(12):
        core.router.reject(core.peer("p0"), core.topic(), core.now)
    core.router.remove_peer("p0", core.now)
    core.router.take_bad_peers()
    core.peers(1)
    assert core.peer("p0").graylisted
    assert core.router.take_bad_peers() == ["p0"]


def test_garbage_costs_ten_and_its_square() -> None:
    core = Core()
    core.peers(1)
    core.router.malformed("p0", core.now)
    assert core.score("p0") == -10
    core.router.malformed("p0", core.now)
    assert core.score("p0") == -40


def test_a_whole_64_is_one_place() -> None:
    scores = ScoreBook(ScoreParams())
    there = [scores.connect(f"p{n}", f"2001:db8:1:2:{n:x}::1") for n in range(7)]
    assert all(scores.parts(one, 0).colocation == -200 for one in there)
    assert scores.parts(scores.connect("q", "2001:db8:1:3::1"), 0).colocation == 0


def test_without_a_limit_any_number_may_share_a_place() -> None:
    scores = ScoreBook(ScoreParams(colocation_threshold=0))
    there = [scores.connect(f"p{n}", "10.0.0.1") for n in range(25)]
    assert {scores.score(one, 0) for one in there} == {0}
    assert all(scores.at_least(one, 0, 0) for one in there)
