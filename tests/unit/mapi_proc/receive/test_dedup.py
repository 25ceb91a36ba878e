"""Once per hash: what is remembered, what may be forgotten."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mapi_proc.database import Batch, RememberedHashes
from mapi_proc.receive.dedup import SLICE_COUNT, SLICE_SPAN, Dedup

SECOND = 1_000_000_000
MINUTE = 60 * SECOND


def message_hash(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_a_hash_is_new_once() -> None:
    dedup = Dedup()
    assert dedup.add(message_hash(1), 0, 5)
    assert not dedup.add(message_hash(1), 0, 6)
    assert not dedup.add(message_hash(1), 3, 7)  # whatever the shard
    assert message_hash(1) in dedup.known
    assert len(dedup) == 1


def test_old_hashes_go_after_the_retention() -> None:
    dedup = Dedup(retention=MINUTE)
    batch = Batch(itertools.count())
    dedup.add(message_hash(1), 0, 0)
    dedup.add(message_hash(2), 0, SLICE_SPAN)
    assert dedup.evict(MINUTE, {}, batch) == 0
    assert dedup.evict(MINUTE + SECOND, {}, batch) == 1
    assert batch.rows == {"evict_hashes": [(0, 1)]}
    assert dedup.add(message_hash(1), 0, MINUTE)
    assert not dedup.add(message_hash(2), 0, MINUTE)


def test_nothing_behind_the_horizon_is_forgotten_however_old() -> None:
    dedup = Dedup(retention=MINUTE)
    for shard in (0, 1):
        dedup.add(message_hash(shard), shard, 100 * SECOND)
    late = 3600 * SECOND
    assert dedup.evict(late, {0: 100 * SECOND}) == 1  # a catch-up of shard 0 may still bring it
    assert message_hash(0) in dedup.known
    assert message_hash(1) not in dedup.known
    assert dedup.evict(late, {0: 101 * SECOND}) == 1


def test_a_horizon_does_not_shorten_the_retention() -> None:
    dedup = Dedup(retention=MINUTE)
    dedup.add(message_hash(1), 0, 0)
    assert dedup.evict(30 * SECOND, {0: 29 * SECOND}) == 0


def test_the_bound_on_the_count_takes_the_oldest_and_says_so() -> None:
    dedup = Dedup(capacity=SLICE_COUNT)
    for number in range(SLICE_COUNT):
        dedup.add(message_hash(number), 0, 10)
    assert dedup.evict(20, {0: 0, 1: 0}) == 0
    dedup.add(b"\xff" * 32, 1, 20)
    assert dedup.evict(20, {0: 0, 1: 0}) == SLICE_COUNT
    assert dedup.evicted_early == SLICE_COUNT
    assert len(dedup) == 1


def test_a_clock_set_back_does_not_keep_hashes_for_ever() -> None:
    dedup = Dedup(retention=MINUTE)
    batch = Batch(itertools.count())
    year = 365 * 24 * 3600 * SECOND
    dedup.add(message_hash(1), 0, year)
    dedup.add(message_hash(2), 0, 100)
    assert dedup.evict(200, {}, batch) == 0
    assert batch.rows["clamp_hashes"] == [(200, 0, 200)]
    assert dedup.evict(200 + MINUTE + 1, {}, batch) == 2


def test_hashes_come_back_from_disk() -> None:
    rows = [
        RememberedHashes(0, 10, message_hash(1) + message_hash(2)),
        RememberedHashes(1, 20, message_hash(3)),
    ]
    dedup = Dedup(retention=MINUTE, loaded=rows)
    assert dedup.known == {message_hash(1), message_hash(2), message_hash(3)}
    assert dedup.evict(MINUTE + 15, {}) == 2
    assert dedup.known == {message_hash(3)}


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 2), st.integers(-5, 40), st.integers(0, 200)),
        max_size=80,
    )
)
def test_against_a_naive_memory(steps: list[tuple[int, int, int, int]]) -> None:
    """Never forgets too early; forgets within a slice's span of the time it may."""
    dedup = Dedup(retention=MINUTE)
    naive: dict[bytes, tuple[int, int]] = {}
    now = 1000 * SECOND
    for number, shard, passed, horizon in steps:
        now += max(passed, 0) * SECOND
        value = message_hash(number)
        assert dedup.add(value, shard, now) is (value not in naive)
        naive.setdefault(value, (shard, now))
        horizons = {shard: 1000 * SECOND + horizon * SECOND}
        dedup.evict(now, horizons)
        for known, (its_shard, seen) in list(naive.items()):
            limit = now - MINUTE
            if its_shard in horizons:
                limit = min(limit, horizons[its_shard])
            if seen >= limit:
                assert known in dedup.known
            if seen + SLICE_SPAN < limit:
                assert known not in dedup.known
            if known not in dedup.known:
                del naive[known]  # rightly, as was just checked; a horizon that goes back changes nothing
