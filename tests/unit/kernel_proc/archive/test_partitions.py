from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.archive.partitions import (
    LAST,
    Partition,
    are_enough,
    expired,
    parse_bounds,
    partition_width,
    partitions_from,
    sealed,
)

S = 1_000_000_000
HOUR = 3600 * S
NOW = 1_764_482_400 * S  # 2025-11-30 06:00 UTC


@pytest.mark.parametrize(
    ("keeps", "seconds"),
    [(None, 86_400), (172_800, 7200), (86_400, 3600), (100, 300), (0.0, 300), (1e9, 86_400)],
)
def test_width_by_the_time_that_messages_are_kept(keeps: float | None, seconds: int) -> None:
    assert partition_width(keeps) == seconds * S


def test_a_new_table_gets_one_partition_for_the_past_and_some_ahead() -> None:
    made = partitions_from(None, NOW + 5, HOUR)
    assert made[0] == Partition("logos_message_first", None, NOW)
    assert made[1] == Partition("logos_message_20251130_0600", NOW, NOW + HOUR)
    assert made[-1] == Partition(LAST, NOW + 5 * HOUR, None)
    assert len(made) == 7


@given(
    low=st.none() | st.integers(-NOW, 3 * NOW),
    now=st.integers(0, 2 * NOW),
    seconds=st.sampled_from([300, 7200]),
)
def test_partitions_cover_all_time_from_a_moment_on_without_a_gap(
    low: int | None, now: int, seconds: int
) -> None:
    low = None if low is None else low - low % (300 * S)
    made = partitions_from(low, now, seconds * S)
    assert (made[0].low, made[-1].high) == (low, None)
    assert [one.high for one in made[:-1]] == [one.low for one in made[1:]]
    assert len({one.name for one in made}) == len(made)
    assert are_enough(made[-1], now, seconds * S)
    for one in made:
        assert parse_bounds(one.name, one.bounds.replace("(", "('").replace(")", "')")) == one


def test_a_long_absence_is_one_partition() -> None:
    made = partitions_from(NOW - 1000 * HOUR, NOW, HOUR)
    assert len(made) == 7
    assert made[0].is_wide
    assert not made[1].is_wide


def test_a_partition_in_use_ends_at_least_an_hour_from_now() -> None:
    for low in (None, NOW - HOUR):
        end = sealed(Partition(LAST, low, None), NOW + 1, HOUR)
        assert (end.low, end.high) == (low, NOW + 2 * HOUR)
        assert partitions_from(end.high, NOW + 1, HOUR)[0].low == end.high


def test_expired_are_those_wholly_before() -> None:
    made = partitions_from(None, NOW, HOUR)
    assert expired(made, NOW - 1) == []
    assert expired(made, NOW) == made[:1]
    assert expired(made, NOW + 90 * 60 * S) == made[:2]
    assert expired(made, NOW + 10**6 * HOUR) == made[:-1]


def test_bounds_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="another kind"):
        parse_bounds("x", "DEFAULT")
