from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.streams import GapTracker, Step, new_epoch, new_instance

A, B = b"a" * 16, b"b" * 16
E1, E2 = b"1" * 8, b"2" * 8


def test_events_in_order() -> None:
    tracker = GapTracker(A, E1)
    assert [tracker.feed(A, E1, seq) for seq in (1, 2, 3)] == [Step.IN_ORDER] * 3
    assert tracker.heartbeat(A, E1, 3) is Step.IN_ORDER
    assert (tracker.last, tracker.missing) == (3, None)


def test_a_gap_is_reported_and_nothing_is_counted() -> None:
    tracker = GapTracker(A, E1, 5)
    assert tracker.feed(A, E1, 9) is Step.GAP
    assert (tracker.last, tracker.missing) == (5, (6, 9))
    assert [tracker.feed(A, E1, seq) for seq in (6, 7, 8, 9)] == [Step.IN_ORDER] * 4
    assert tracker.missing is None


def test_a_heartbeat_shows_the_loss_before_a_silence() -> None:
    tracker = GapTracker(A, E1, 5)
    assert tracker.heartbeat(A, E1, 7) is Step.GAP
    assert tracker.missing == (6, 7)


def test_what_a_replay_has_overtaken_is_a_duplicate() -> None:
    tracker = GapTracker(A, E1, 5)
    assert tracker.feed(A, E1, 5) is Step.DUPLICATE
    assert tracker.heartbeat(A, E1, 4) is Step.DUPLICATE
    assert tracker.last == 5


def test_another_epoch_or_instance() -> None:
    tracker = GapTracker(A, E1, 5)
    for instance, epoch in ((A, E2), (B, E1), (B, E2)):
        assert tracker.feed(instance, epoch, 1) is Step.NEW_EPOCH
        assert tracker.heartbeat(instance, epoch, 1) is Step.NEW_EPOCH
    assert tracker.last == 5
    tracker.restart(B, E2)
    assert tracker.feed(B, E2, 2) is Step.GAP
    assert tracker.missing == (1, 2)


def test_a_new_reader_follows_nothing_yet() -> None:
    assert GapTracker().feed(A, E1, 1) is Step.NEW_EPOCH


def test_what_is_gone_can_be_given_up() -> None:
    tracker = GapTracker(A, E1, 5)
    tracker.feed(A, E1, 20)
    tracker.skip_to(15)
    assert tracker.missing == (16, 20)
    tracker.skip_to(3)
    assert tracker.last == 15
    tracker.skip_to(30)
    assert tracker.missing is None


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 12)), max_size=40))
def test_against_a_set_of_seqs(steps: list[tuple[bool, int]]) -> None:
    """The model: the seqs seen, of which only the unbroken run from 1 counts."""
    tracker = GapTracker(A, E1)
    seen: set[int] = set()
    known = 0
    for is_heartbeat, seq in steps:
        run = len(seen)
        known = max(known, seq)
        if is_heartbeat:
            step = tracker.heartbeat(A, E1, seq)
            expected = Step.GAP if seq > run else Step.DUPLICATE if seq < run else Step.IN_ORDER
        else:
            step = tracker.feed(A, E1, seq)
            expected = Step.GAP if seq > run + 1 else Step.DUPLICATE if seq in seen else Step.IN_ORDER
            if expected is Step.IN_ORDER:
                seen.add(seq)
        assert step is expected
        assert tracker.last == len(seen) == max(seen, default=0)
        assert tracker.missing == ((len(seen) + 1, known) if known > len(seen) else None)


def test_instances_and_epochs_are_drawn_from_what_is_given() -> None:
    assert new_instance(lambda size: b"r" * size) == b"r" * 16
    assert new_epoch(lambda size: b"r" * size) == b"r" * 8
