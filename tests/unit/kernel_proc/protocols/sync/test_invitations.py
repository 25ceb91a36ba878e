"""What peers may transfer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.protocols.sync.invitations import (
    GRACE,
    MAX_KEYS,
    MAX_PEERS,
    Grant,
    Grants,
    TransferVerdict,
)
from kernel_proc.protocols.sync.keys import KEY_SIZE, key_at, make_key

HASH = b"h" * 32


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=20),
    st.integers(0, 80),
)
def test_ranges_add_up(ranges: list[tuple[int, int]], at: int) -> None:
    grant = Grant(100, 1000)
    for low, length in ranges:
        grant.invite(key_at(low), key_at(low + length))
    inside = any(low <= at <= low + length for low, length in ranges)
    assert (grant.judge(at, HASH, 1) is TransferVerdict.TAKEN) is inside


def test_single_messages_are_taken_once_and_the_limits_hold() -> None:
    grant = Grant(2, 100)
    grant.wanted = {make_key(number, HASH) for number in range(4)}
    assert grant.judge(9, HASH, 1) is TransferVerdict.UNASKED
    assert grant.judge(0, b"other" + bytes(27), 1) is TransferVerdict.UNASKED
    assert grant.judge(0, HASH, 60) is TransferVerdict.TAKEN
    assert grant.judge(0, HASH, 10) is TransferVerdict.UNASKED
    assert grant.judge(1, HASH, 60) is TransferVerdict.OVER_LIMIT
    assert grant.judge(1, HASH, 40) is TransferVerdict.TAKEN
    assert grant.judge(2, HASH, 0) is TransferVerdict.OVER_LIMIT


def test_a_grant_ends_some_time_after_its_session() -> None:
    now = 0.0
    grants = Grants(lambda: now, messages=10, size=1000)
    assert grants.find("a") is None
    grant = grants.open("a")
    grant.invite(key_at(5), key_at(6))
    now = 1000.0
    assert grants.find("a") is grant
    grants.close(grant)
    now += GRACE / 2
    again = grants.open("a")  # what the last session asked for may still be on its way
    assert again.judge(5, HASH, 1) is TransferVerdict.TAKEN
    grants.close(again)
    now += GRACE
    assert grants.find("a") is None
    assert len(grants) == 0


def test_the_keys_of_ended_sessions_are_bounded() -> None:
    grants = Grants(lambda: 0.0, messages=10, size=1000)
    keys = [number.to_bytes(KEY_SIZE, "big") for number in range(MAX_KEYS // 2)]
    for name, count in (("half", len(keys)), ("large", len(keys)), ("small", 1)):
        grant = grants.open(name)
        grant.wanted = set(keys[:count])
        grants.close(grant)
    assert grants.find("half") is not None
    grants.open("another")
    assert [grants.find(name) is not None for name in ("half", "large", "small")] == [False, True, True]


def test_the_number_of_grants_is_bounded() -> None:
    grants = Grants(lambda: 0.0, messages=10, size=1000)
    first = grants.open("first")
    for number in range(MAX_PEERS):
        grant = grants.open(str(number))
        if number == 3:
            grants.close(grant)
    assert len(grants) == MAX_PEERS
    assert grants.find("first") is first
    assert grants.find("3") is None
