from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.archive.queue import OfferQueue
from kernel_proc.archive.rows import Offer
from tests.support.archive import NOW, SHARD, make_message


def make_offer(cost: int, number: int = 0) -> Offer:
    return Offer(SHARD, make_message(NOW + number), number.to_bytes(32, "big"), cost)


def test_bounds_hold_until_a_group_is_settled() -> None:
    queue = OfferQueue(3, 100)
    assert [queue.add(make_offer(40)) for _ in range(3)] == [True, True, False]  # bytes
    assert queue.add(make_offer(20))
    assert not queue.add(make_offer(0))  # messages
    group = queue.take(10, 1000)
    assert (len(group), len(queue), queue.messages, queue.bytes) == (3, 0, 3, 100)
    assert not queue.add(make_offer(1))
    queue.settle(group)
    assert (queue.messages, queue.bytes) == (0, 0)
    assert queue.add(make_offer(100))


def test_a_group_ends_at_its_bounds() -> None:
    queue = OfferQueue(100, 1000)
    for number in range(6):
        assert queue.add(make_offer(30, number))
    assert len(queue.take(2, 1000)) == 2
    assert len(queue.take(10, 31)) == 2  # including the one that reaches the limit
    assert len(queue.take(10, 1)) == 1
    assert len(queue.take(10, 1)) == 1
    assert queue.take(10, 1) == []


@given(st.lists(st.one_of(st.integers(0, 60), st.none()), max_size=60))
def test_order_and_counts(steps: list[int | None]) -> None:
    queue = OfferQueue(8, 200)
    waiting: list[int] = []
    accepted = settled = number = 0
    for cost in steps:
        if cost is None:
            group = queue.take(3, 80)
            assert [int.from_bytes(offer.message_hash, "big") for offer in group] == waiting[: len(group)]
            del waiting[: len(group)]
            queue.settle(group)
            settled += len(group)
        else:
            number += 1
            if queue.add(make_offer(cost, number)):
                waiting.append(number)
                accepted += 1
        assert (queue.accepted, queue.settled, len(queue)) == (accepted, settled, len(waiting))
        assert queue.messages <= 8
        assert queue.bytes <= 200
