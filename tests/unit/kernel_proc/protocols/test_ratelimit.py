"""Rate limits: the buckets of nwaku, driven by a clock of the test."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.config.ratelimits import RateLimit
from kernel_proc.protocols.ratelimit import MAX_PEERS, PeerLimiter, ServiceLimiter


def served(limiter: PeerLimiter | ServiceLimiter, peer: str, now: float, times: int) -> int:
    return sum(limiter.allow(peer, now) for _ in range(times))


def test_the_sixth_quick_request_is_refused() -> None:
    """Measured with nwaku: 5/1s serves five at once after the start, then one every 200 ms."""
    limiter = ServiceLimiter(RateLimit(5, 1.0))
    assert served(limiter, "a", 0.0, 20) == 5
    assert served(limiter, "a", 0.2, 20) == 1
    assert served(limiter, "b", 0.4, 20) == 1


@pytest.mark.parametrize(
    ("limit", "gathered", "share"),
    [(RateLimit(5, 1.0), 50, 37), (RateLimit(6, 60.0), 18, 13), (RateLimit(4, 3600.0), 8, 6)],
)
def test_a_quiet_time_gathers_a_burst_of_which_one_peer_gets_three_quarters(
    limit: RateLimit, gathered: int, share: int
) -> None:
    limiter = ServiceLimiter(limit)
    assert limiter.allow("a", 0.0)
    later = limit.period * 100
    assert served(limiter, "a", later, 1000) == share
    assert served(limiter, "b", later, 1000) == gathered - share


def test_a_refused_peer_costs_the_others_nothing() -> None:
    limiter = ServiceLimiter(RateLimit(5, 1.0))
    limiter.allow("x", 0.0)
    assert served(limiter, "greedy", 100.0, 10_000) == 37
    assert served(limiter, "modest", 100.0, 5) == 5


def test_the_bucket_of_a_peer_refills_steadily() -> None:
    limiter = PeerLimiter(RateLimit(100, 1.0))
    assert served(limiter, "a", 0.0, 150) == 100
    assert served(limiter, "b", 0.5, 150) == 100
    assert served(limiter, "a", 0.25, 150) == 25
    assert served(limiter, "a", 0.26, 150) == 1
    assert served(limiter, "a", 1.26, 150) == 100
    assert sum(served(limiter, "c", 5 + n / 1000, 1) for n in range(2000)) == pytest.approx(299, abs=1)


def test_no_limit() -> None:
    assert served(ServiceLimiter(None), "a", 0.0, 1000) == 1000
    assert served(PeerLimiter(None), "a", 0.0, 1000) == 1000


def test_the_number_of_remembered_peers_is_bounded() -> None:
    limiter = PeerLimiter(RateLimit(1, 1.0))
    assert limiter.allow("first", 0.0)
    assert not limiter.allow("first", 0.0)
    for number in range(MAX_PEERS):
        assert limiter.allow(f"p{number}", 0.0)
    assert limiter.allow("first", 0.0)  # forgotten


@given(
    st.lists(st.tuples(st.floats(0, 3), st.sampled_from("abc")), max_size=300),
    st.integers(1, 20),
    st.sampled_from([0.1, 1.0, 60.0]),
)
def test_never_more_than_what_gathered_and_what_time_brings(
    requests: list[tuple[float, str]], volume: int, period: float
) -> None:
    limiter = ServiceLimiter(RateLimit(volume, period))
    now, first = 0.0, None
    done = 0
    for step, peer in requests:
        now += step
        first = now if first is None else first
        done += limiter.allow(peer, now)
        assert done <= volume + (now - first) * volume / period + 1e-6
