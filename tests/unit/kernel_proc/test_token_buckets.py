"""Bounded maps and rates."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.token_buckets import LruDict, TokenBuckets


def test_the_one_not_used_longest_goes() -> None:
    entries: LruDict[str, int] = LruDict(2)
    entries.put("a", 1)
    entries.put("b", 2)
    assert entries.get("a") == 1
    entries.put("c", 3)
    assert entries.get("b") is None
    assert entries.values() == [1, 3]
    assert len(entries) == 2
    assert (entries.pop("a"), entries.pop("a")) == (1, None)


def test_a_key_has_its_burst_and_then_its_rate() -> None:
    buckets: TokenBuckets[str] = TokenBuckets(rate=10, burst=5, capacity=100)
    assert [buckets.allow("x", 0.0) for _ in range(6)] == [True] * 5 + [False]
    assert buckets.allow("y", 0.0)
    assert not buckets.allow("x", 0.05)
    assert buckets.allow("x", 0.11)
    assert not buckets.allow("x", 0.12)
    # Unused capacity accumulates up to a burst, not indefinitely.
    assert [buckets.allow("x", 1e6) for _ in range(6)] == [True] * 5 + [False]


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 3)), max_size=200))
def test_no_key_exceeds_its_rate(steps: list[tuple[float, int]]) -> None:
    buckets: TokenBuckets[int] = TokenBuckets(rate=5, burst=3, capacity=10)
    now, allowed = 0.0, dict.fromkeys(range(4), 0)
    for pause, key in steps:
        now += pause
        allowed[key] += buckets.allow(key, now)
    assert all(count <= 3 + 5 * now + 1e-6 for count in allowed.values())


def test_keys_are_bounded() -> None:
    buckets: TokenBuckets[int] = TokenBuckets(rate=1, burst=1, capacity=10)
    for key in range(1000):
        assert buckets.allow(key, 0.0)
    assert len(buckets) == 10
