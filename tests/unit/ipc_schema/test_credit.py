from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.credit import AckPosition, CreditGrant, CreditWindow
from ipc_schema.errors import ErrorCode, IpcError


def test_without_credit_nothing_is_sent() -> None:
    window = CreditWindow()
    assert not window.open
    assert window.grant(10)
    assert window.open


def test_one_event_may_overdraw() -> None:
    window = CreditWindow(10)
    window.spend(9)
    assert window.open
    window.spend(100)
    assert (window.open, window.available) == (False, -99)
    assert not window.grant(109), "all of it is owed"
    assert window.grant(110)


def test_totals_only_grow() -> None:
    window = CreditWindow(10)
    assert not window.grant(5)
    assert window.total == 10


@given(st.integers(1, 1000), st.lists(st.integers(1, 3000), max_size=60), st.integers(1, 5))
def test_a_receiver_that_handles_never_stalls_and_never_holds_much(
    size: int, costs: list[int], lag: int
) -> None:
    """Sender and receiver with up to `lag` events on the way; grants arrive at once."""
    receiver = CreditGrant(size)
    sender = CreditWindow(receiver.total)
    waiting = list(costs)
    flying: list[int] = []
    while waiting or flying:
        while waiting and sender.open and len(flying) < lag:
            cost = waiting.pop(0)
            sender.spend(cost)
            flying.append(cost)
            assert sum(flying) - flying[-1] < size, "more on the way than was granted, and one"
        assert flying, "both wait for each other"
        total = receiver.handle(flying.pop(0))
        if total is not None:
            sender.grant(total)
    assert receiver.handled == sender.spent == sum(costs)


def test_grants_are_few() -> None:
    receiver = CreditGrant(1000)
    grants = [receiver.handle(10) for _ in range(100)]
    assert sum(grant is not None for grant in grants) == 2


def test_a_new_hello_begins_anew() -> None:
    receiver = CreditGrant(100)
    receiver.handle(80)
    assert receiver.restart() == 100
    assert receiver.handled == 0
    with pytest.raises(ValueError):
        CreditGrant(0)


def test_acks_are_cumulative() -> None:
    position = AckPosition(2, 10)
    assert position.ack(7)
    assert not position.ack(7)
    assert not position.ack(3)
    assert position.acked == 7


@pytest.mark.parametrize("seq", [11, -1])
def test_what_was_never_given_cannot_be_acked(seq: int) -> None:
    position = AckPosition(2, 10)
    with pytest.raises(IpcError, match="ack: seq") as caught:
        position.ack(seq)
    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert position.acked == 2


def test_a_position_lies_within_its_stream() -> None:
    with pytest.raises(ValueError):
        AckPosition(3, 2)
