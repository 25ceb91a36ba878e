"""Queues of pushes: bounds, and a budget that counts a shared frame once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.protocols.filter.push_queue import PushBudget, PushFrame, PushQueue


def make(budget: PushBudget | None = None, count: int = 3, size: int = 10) -> PushQueue:
    return PushQueue(budget or PushBudget(1000), max_count=count, max_bytes=size)


def test_bounds_in_count_and_bytes_but_one_always_fits() -> None:
    queue = make()
    assert queue.put(PushFrame(bytes(50)))
    assert not queue.put(PushFrame(b"1"))
    assert queue.take(1) == (bytes(50), 1)
    assert [queue.put(PushFrame(b"1")) for _ in range(4)] == [True, True, True, False]
    assert queue.take(100) == (b"111", 3)
    assert [queue.put(PushFrame(bytes(4))) for _ in range(3)] == [True, True, False]


def test_frames_are_joined_as_far_as_they_fit() -> None:
    queue = make()
    for data in (b"aaa", b"bb", b"c"):
        queue.put(PushFrame(data))
    assert queue.take(5) == (b"aaabb", 2)
    assert queue.take(5) == (b"c", 1)
    assert queue.take(5) == (b"", 0)


def test_a_frame_counts_once_in_the_budget() -> None:
    budget = PushBudget(10)
    queues = [make(budget) for _ in range(5)]
    frame = PushFrame(bytes(8))
    assert all(queue.put(frame) for queue in queues)
    assert budget.used == 8
    assert not queues[0].put(PushFrame(bytes(3)))
    for queue in queues:
        assert budget.used == 8
        assert queue.clear() == 1
    assert budget.used == 0
    assert queues[0].put(PushFrame(bytes(3)))


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 6), st.sampled_from(["put", "share", "take", "clear"])),
        max_size=60,
    )
)
def test_the_books_are_right_whatever_happens(steps: list[tuple[int, int, str]]) -> None:
    budget = PushBudget(25)
    queues = [make(budget, count=4, size=12) for _ in range(3)]
    model: list[list[PushFrame]] = [[], [], []]
    last = PushFrame(b"x")
    for which, size, what in steps:
        queue, frames = queues[which], model[which]
        if what in ("put", "share"):
            last = last if what == "share" else PushFrame(bytes(size))
            if queue.put(last):
                frames.append(last)
        elif what == "take":
            data, count = queue.take(size)
            assert data == b"".join(frame.data for frame in frames[:count])
            assert (count > 0) == bool(frames)
            del frames[:count]
        else:
            assert queue.clear() == len(frames)
            frames.clear()
        distinct = {id(frame): len(frame.data) for each in model for frame in each}
        assert budget.used == sum(distinct.values()) <= budget.limit
        for each, kept in zip(queues, model, strict=True):
            assert each.size == sum(len(frame.data) for frame in kept)
            assert len(each) == len(kept) <= 4
            assert each.size <= 12 or len(each) == 1
