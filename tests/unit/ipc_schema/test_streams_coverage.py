from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.streams import MAX_INTERVALS, CoverageLog, holes

END = 30
times = st.integers(0, END)
intervals = st.lists(st.tuples(times, times | st.none()), max_size=8)


@given(intervals, times, times)
def test_holes_against_single_instants(
    given_intervals: list[tuple[int, int | None]], start: int, end: int
) -> None:
    """The model looks at each instant [t, t+1) on its own."""

    def covered(at: int) -> bool:
        return any(low <= at and (high is None or at < high) for low, high in given_intervals)

    found = holes(given_intervals, start, end)
    assert {at for low, high in found for at in range(low, high)} == {
        at for at in range(start, end) if not covered(at)
    }
    assert found == sorted(found)
    assert all(low < high for low, high in found)
    assert all(first[1] < second[0] for first, second in pairwise(found))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=60))
def test_a_log_with_a_clock_that_goes_on(steps: list[tuple[bool, int]]) -> None:
    log = CoverageLog()
    now = 0
    covered: set[int] = set()
    is_open = False
    for opens, wait in steps:
        if is_open:
            covered |= set(range(now, now + wait))
        now += wait
        assert log.is_open is is_open
        assert (log.open(now) if opens else log.close(now)) is (is_open is not opens)
        is_open = opens
    found = holes(log.intervals(), 0, now)
    assert {at for low, high in found for at in range(low, high)} == set(range(now)) - covered
    assert (not holes(log.intervals(), now, now + 10)) is is_open


def test_an_open_interval_has_no_end() -> None:
    log = CoverageLog()
    log.open(5)
    assert log.intervals() == ((5, None),)
    assert holes(log.intervals(), 0, 1 << 60) == [(0, 5)]
    log.close(8)
    assert log.intervals() == ((5, 8),)


def test_an_interval_without_length_is_forgotten() -> None:
    log = CoverageLog()
    log.open(5)
    log.close(5)
    assert log.intervals() == ()


def test_the_oldest_intervals_go_and_their_time_counts_as_not_covered() -> None:
    log = CoverageLog()
    for at in range(MAX_INTERVALS + 10):
        log.open(2 * at)
        assert len(log.intervals()) <= MAX_INTERVALS
        log.close(2 * at + 1)
    assert len(log.intervals()) == MAX_INTERVALS
    assert log.intervals()[0] == (20, 21)
    assert holes(log.intervals(), 0, 21) == [(0, 20)]


def test_after_a_clock_stepped_back_only_the_second_pass_counts() -> None:
    log = CoverageLog()
    log.open(10)
    log.close(20)
    log.open(30)
    log.close(40)
    log.open(15)
    assert log.intervals() == ((10, 15), (15, None))
    log.close(12)
    assert log.intervals() == ((10, 15),)
