"""Times without a store peer count as missed only when the mesh was small."""

from __future__ import annotations

from mapi_proc.kernel_link.tracker import Missed
from mapi_proc.receive.partitions import LONGEST_NS, Partitions

S = 1_000_000_000
FULL = 4
NONE: list[str] = []
ONE = ["s"]
BOTH = ["s", "t"]


def test_a_small_mesh_without_stores_has_missed_what_came_meanwhile() -> None:
    partitions = Partitions(FULL)
    assert partitions.update(100 * S, ONE, {0: 1}, [0, 3]) == []
    assert partitions.since(0, 101 * S) is None
    assert partitions.update(110 * S, NONE, {0: 1, 3: 5}, [0, 3]) == []
    assert partitions.since(0, 115 * S) == 110 * S
    assert partitions.since(3, 115 * S) is None, "a full mesh is the network"
    missed = partitions.update(120 * S, ONE, {0: 2, 3: 5}, [0, 3])
    assert [(shard, one.from_ns, one.to_ns) for shard, one in missed] == [(0, 110 * S, 120 * S)]
    assert partitions.since(0, 121 * S) is None
    assert partitions.update(130 * S, ONE, {0: 2}, [0, 3]) == [], "once"


def test_a_mesh_that_was_small_at_any_moment_counts() -> None:
    partitions = Partitions(FULL)
    partitions.update(1 * S, ONE, {0: 5}, [0])
    partitions.update(2 * S, NONE, {0: 5}, [0])
    partitions.update(3 * S, NONE, {0: 3}, [0])
    partitions.update(4 * S, NONE, {0: 5}, [0])
    assert [shard for shard, _ in partitions.update(5 * S, BOTH, {0: 5}, [0])] == [0]


def test_a_node_that_never_had_a_store_misses_nothing_by_that() -> None:
    partitions = Partitions(FULL)
    for second in range(10):
        assert partitions.update(second * S, NONE, {0: 1}, [0]) == []
    assert partitions.since(0, 10 * S) is None
    assert partitions.update(11 * S, ONE, {0: 1}, [0]) == []


def test_the_time_before_our_own_start_counts() -> None:
    partitions = Partitions(FULL)
    partitions.restarted(0, 50 * S)
    partitions.restarted(1, 50 * S)
    partitions.restarted(2, 50 * S)
    assert partitions.since(0, 60 * S) == 50 * S
    partitions.forget([2])
    missed = partitions.update(60 * S, ONE, {0: 1, 1: FULL, 2: 1}, [0, 1])
    assert [(shard, one.from_ns, one.to_ns) for shard, one in missed] == [(0, 50 * S, 60 * S)]


def test_only_the_last_half_hour_of_a_long_time_counts() -> None:
    partitions = Partitions(FULL)
    partitions.update(0, ONE, {0: 1}, [0])
    partitions.update(1 * S, NONE, {0: 1}, [0])
    late = 1 * S + 3 * LONGEST_NS
    assert partitions.since(0, late) == late - LONGEST_NS
    ((_, missed),) = partitions.update(late, ONE, {0: 1}, [0])
    assert missed.from_ns == late - LONGEST_NS


def test_a_shard_fed_by_gossip_alone_is_a_suspicion_each_minute_and_when_the_mesh_is_back() -> None:
    partitions = Partitions(FULL)
    found = []
    for second in range(0, 150, 5):
        found += partitions.update(second * S, ONE, {0: 0, 1: 4}, [0, 1], {0: 3, 1: 4})
    assert partitions.since(0, 149 * S) == 120 * S
    assert partitions.since(1, 149 * S) is None
    found += partitions.update(150 * S, ONE, {0: 1, 1: 4}, [0, 1], {0: 3, 1: 4})
    assert [(shard, one.from_ns // S, one.to_ns // S, one.suspected) for shard, one in found] == [
        (0, 0, 60, True),
        (0, 60, 120, True),
        (0, 120, 150, True),
    ]
    assert partitions.since(0, 151 * S) is None


def test_the_moment_before_the_first_mesh_peer_is_not_suspicious() -> None:
    partitions = Partitions(FULL)
    assert partitions.update(0, ONE, {0: 0}, [0], {0: 1}) == []
    assert partitions.update(2 * S, ONE, {0: 1}, [0], {0: 1}) == []
    assert partitions.since(0, 3 * S) is None


def spans(missed: list[tuple[int, Missed]]) -> list[tuple[int, int, int]]:
    return [(shard, one.from_ns // S, one.to_ns // S) for shard, one in missed]


def test_a_small_mesh_may_have_missed_what_went_to_a_store_that_was_away() -> None:
    partitions = Partitions(FULL)
    partitions.update(10 * S, BOTH, {0: 1, 1: FULL}, [0, 1])
    assert partitions.update(20 * S, ONE, {0: 1, 1: FULL}, [0, 1]) == []
    assert partitions.since(0, 25 * S) == 20 * S
    assert partitions.since(1, 25 * S) is None, "a full mesh is the network"
    assert partitions.update(30 * S, NONE, {0: 1, 1: FULL}, [0, 1]) == []
    assert spans(partitions.update(40 * S, ONE, {0: 1, 1: FULL}, [0, 1])) == [(0, 30, 40)]
    assert spans(partitions.update(50 * S, BOTH, {0: 1, 1: FULL}, [0, 1])) == [(0, 20, 50)]
    assert partitions.since(0, 51 * S) is None
    assert partitions.update(60 * S, BOTH, {0: 1, 1: FULL}, [0, 1]) == [], "once"


def test_a_store_that_was_away_before_our_own_start_counts_since_the_good_moment() -> None:
    partitions = Partitions(FULL)
    partitions.restarted(0, 50 * S)
    partitions.remember(60 * S, BOTH)
    assert spans(partitions.update(60 * S, ONE, {0: 1, 1: 1}, [0, 1])) == [(0, 50, 60)]
    assert partitions.since(0, 61 * S) == 50 * S
    assert spans(partitions.update(70 * S, BOTH, {0: 1, 1: 1}, [0, 1])) == [(0, 50, 70), (1, 60, 70)]


def test_a_shard_is_missed_only_from_when_it_was_wanted() -> None:
    partitions = Partitions(FULL)
    partitions.update(10 * S, BOTH, {0: 1}, [0])
    partitions.update(20 * S, ONE, {0: 1}, [0])
    partitions.update(30 * S, ONE, {0: 1, 1: 1}, [0, 1])
    partitions.forget([0])
    assert spans(partitions.update(40 * S, BOTH, {1: 1}, [1])) == [(1, 30, 40)]


def test_stores_that_never_return_are_forgotten() -> None:
    partitions = Partitions(FULL)
    partitions.remember(0, [f"away{number}" for number in range(1000)])
    partitions.update(1 * S, BOTH, {0: 1}, [0])
    assert partitions.update(2 * S, [*BOTH, "away0"], {0: 1}, [0]) == [], "most are not waited for"
    assert spans(partitions.update(3 * S, [*BOTH, "away999"], {0: 1}, [0])) == [(0, 1, 3)]
    assert partitions.since(0, 4 * S) == 1 * S
    partitions.update(2 * 3600 * S, BOTH, {0: 1}, [0])
    partitions.update(4 * 3600 * S, BOTH, {0: 1}, [0])
    assert partitions.since(0, 4 * 3600 * S) is None
