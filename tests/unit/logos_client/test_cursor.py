"""A reader's place in a kernel stream, without sockets."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from logos_client._cursor import CursorVerdict, StreamCursor

INSTANCE, EPOCH = bytes(16), bytes(8)


def test_a_reader_without_a_lease_begins_where_it_comes_in() -> None:
    cursor = StreamCursor("m/1/0")
    assert cursor.event(INSTANCE, EPOCH, 41) is CursorVerdict.KEEP
    assert cursor.event(INSTANCE, EPOCH, 42) is CursorVerdict.KEEP
    assert cursor.event(INSTANCE, EPOCH, 42) is CursorVerdict.SKIP
    assert cursor.losses == []
    other = StreamCursor("m/1/0")
    assert other.heartbeat(INSTANCE, EPOCH, 41) is CursorVerdict.SKIP
    assert other.event(INSTANCE, EPOCH, 42) is CursorVerdict.KEEP


def test_start_does_not_move_a_reader_that_is_under_way() -> None:
    cursor = StreamCursor("m/1/0")
    cursor.start(INSTANCE, EPOCH, 3)
    cursor.event(INSTANCE, EPOCH, 4)
    cursor.start(INSTANCE, EPOCH, 9)
    assert cursor.last == 4


def test_a_new_epoch_is_a_loss_of_unknown_size() -> None:
    cursor = StreamCursor("m/1/0")
    cursor.start(INSTANCE, EPOCH, 3)
    assert cursor.event(INSTANCE, b"another!", 2) is CursorVerdict.CATCH_UP
    assert [(loss.first, loss.last) for loss in cursor.losses] == [(4, None)]
    assert (cursor.epoch, cursor.last, cursor.highest) == (b"another!", 0, 2)
    assert cursor.replayed(INSTANCE, b"another!", 1) is CursorVerdict.KEEP
    assert cursor.event(INSTANCE, b"another!", 2) is CursorVerdict.KEEP


@settings(max_examples=200)
@given(
    lost=st.sets(st.integers(1, 40)),
    trimmed=st.integers(0, 40),
    heartbeats=st.sets(st.integers(1, 40)),
)
def test_every_event_is_kept_once_or_reported_lost(
    lost: set[int], trimmed: int, heartbeats: set[int]
) -> None:
    """Live events go missing, the ring has forgotten some: together nothing is silently gone."""
    cursor = StreamCursor("m/1/0")
    cursor.start(INSTANCE, EPOCH, 0)
    kept: list[int] = []

    def catch_up(head: int) -> None:
        cursor.behind = True
        first = min(trimmed + 1, head + 1)
        if first > cursor.last + 1:
            cursor.give_up(first - 1, "trimmed")
        for seq in range(cursor.last + 1, head + 1):
            assert cursor.replayed(INSTANCE, EPOCH, seq) is CursorVerdict.KEEP
            kept.append(seq)
        cursor.behind = False

    for seq in range(1, 41):
        if seq not in lost:
            verdict = cursor.event(INSTANCE, EPOCH, seq)
            if verdict is CursorVerdict.KEEP:
                kept.append(seq)
            elif verdict is CursorVerdict.CATCH_UP:
                catch_up(seq)
        if seq in heartbeats and cursor.heartbeat(INSTANCE, EPOCH, seq) is CursorVerdict.CATCH_UP:
            catch_up(seq)
    if cursor.heartbeat(INSTANCE, EPOCH, 40) is CursorVerdict.CATCH_UP:
        catch_up(40)
    reported = [seq for loss in cursor.losses for seq in range(loss.first, (loss.last or loss.first) + 1)]
    assert sorted(kept + reported) == list(range(1, 41))
    assert kept == sorted(kept)
