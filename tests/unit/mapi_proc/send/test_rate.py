"""The app-side rate limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.config.ratelimits import RateLimit
from mapi_proc.send.rate import RateLimiter

LIMIT = RateLimit(3, 10.0)


def test_off_admits_everything() -> None:
    limiter = RateLimiter(None)
    assert all(limiter.admit(0.0) for _ in range(1000))
    assert not limiter.limited


def test_so_many_per_epoch_of_the_clock() -> None:
    limiter = RateLimiter(LIMIT)
    assert [limiter.admit(105.0) for _ in range(4)] == [True, True, True, False]
    assert limiter.next_epoch(105.0) == 5.0
    assert limiter.admit(110.0)


def test_the_count_survives_a_restart() -> None:
    before, after, other = RateLimiter(LIMIT), RateLimiter(LIMIT), RateLimiter(RateLimit(3, 60.0))
    before.admit(101.0)
    before.admit(101.0)
    after.load(before.note())
    assert [after.admit(102.0), after.admit(102.0)] == [True, False]
    other.load(before.note())
    assert [other.admit(102.0) for _ in range(3)] == [True] * 3, "another period starts from zero"
    for garbage in (b"", b"1:2", b"a:b:c", b"\xff"):
        RateLimiter(LIMIT).load(garbage)


@given(st.lists(st.floats(0, 1000), max_size=100))
def test_between_two_moves_forward_no_more_than_the_limit_goes_out(times: list[float]) -> None:
    limiter = RateLimiter(LIMIT)
    epoch, admitted = -1, 0
    for now in times:
        if int(now // 10.0) > epoch:
            admitted = 0
        epoch = int(now // 10.0)
        admitted += limiter.admit(now)
        assert admitted <= 3


@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_is_set_back_parks_sends_for_one_epoch_at_most(restarted: bool) -> None:
    limiter = RateLimiter(LIMIT)
    assert [limiter.admit(3705.0) for _ in range(4)] == [True, True, True, False]
    if restarted:
        note, limiter = limiter.note(), RateLimiter(LIMIT)
        limiter.load(note)
    assert not limiter.admit(105.0), "what is used stays used"
    assert limiter.next_epoch(105.0) == 5.0
    assert limiter.admit(110.0)
