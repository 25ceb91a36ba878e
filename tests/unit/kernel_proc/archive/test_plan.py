from __future__ import annotations

from random import Random

from kernel_proc.archive.api import HistoryQuery
from kernel_proc.archive.plan import (
    EVERYTHING,
    FoundRows,
    RowRange,
    Span,
    in_order,
    make_page,
    ranges,
    span,
    whole_partitions,
    windows,
)

LOW, HIGH = bytes(32), b"\xff" * 32


def test_a_window_includes_both_ends() -> None:
    window = span(HistoryQuery(start=5, end=7), None)
    for key in ((5, LOW), (5, HIGH), (6, LOW), (7, HIGH)):
        assert window.holds(key)
    for key in ((4, HIGH), (8, LOW)):
        assert not window.holds(key)
    assert not span(HistoryQuery(start=5, end=5), None).empty
    assert span(HistoryQuery(start=6, end=5), None).empty


def test_everything_holds_every_key() -> None:
    assert EVERYTHING.holds((-(1 << 63), LOW))
    assert EVERYTHING.holds(((1 << 63) - 1, HIGH))


def test_a_cursor_is_exclusive_and_never_widens_the_window() -> None:
    cursor = (6, LOW)
    ahead = span(HistoryQuery(start=5, end=7, forward=True), cursor)
    assert not ahead.holds(cursor)
    assert ahead.holds((6, HIGH))
    assert not ahead.holds((5, HIGH))
    back = span(HistoryQuery(start=5, end=7), cursor)
    assert back.holds((5, HIGH))
    assert not back.holds(cursor)
    assert span(HistoryQuery(start=5, forward=True), (3, LOW)).low == (5, b"")
    assert span(HistoryQuery(end=5), (9, LOW)).high[0] == 5
    assert span(HistoryQuery(start=5), (3, LOW)).empty


def test_ranges() -> None:
    known = ["/p1", "/p2"]
    assert ranges(HistoryQuery(), known) == [RowRange("/p1", None), RowRange("/p2", None)]
    assert ranges(HistoryQuery(pubsub_topic="/p3"), known) == [RowRange("/p3", None)]
    assert ranges(HistoryQuery(pubsub_topic="/p3", content_topics=("/c", "/d", "/c")), known) == [
        RowRange("/p3", "/c"),
        RowRange("/p3", "/d"),
    ]
    assert len(ranges(HistoryQuery(content_topics=("/c", "/d")), known)) == 4
    assert ranges(HistoryQuery(), []) == []


def test_order_is_time_then_hash() -> None:
    found = [((2, LOW), "c"), ((1, HIGH), "b"), ((1, LOW), "a")]
    assert [name for _, name in in_order(list(found), forward=True, limit=2)] == ["a", "b"]
    assert [name for _, name in in_order(list(found), forward=False, limit=2)] == ["c", "b"]


def test_pages_ascend_and_name_a_cursor_only_when_there_is_more() -> None:
    digests = [bytes([number]) * 32 for number in range(3)]
    found = [FoundRows((1, digest), "/p", b"data") for digest in digests]
    forward = HistoryQuery(forward=True, limit=2)
    page = make_page(forward, found)
    assert [message.message_hash for message in page.messages] == digests[:2]
    assert page.cursor == digests[1]
    assert make_page(forward, found[:2]).cursor is None
    backward = HistoryQuery(limit=2)
    page = make_page(backward, found[::-1])
    assert [message.message_hash for message in page.messages] == digests[1:]
    assert page.cursor == digests[1]
    assert make_page(backward, []) == ((), None)


def test_windows_make_up_the_span_in_paging_direction_whatever_the_partitions() -> None:
    random = Random(1)
    for _ in range(300):
        cuts = sorted(random.sample(range(200), random.randrange(60)))
        low, high = sorted(random.choices(range(-5, 205), k=2))
        covered = random.choice(
            [Span((low, b""), (high, HIGH + b"\xff")), EVERYTHING, Span((low, LOW), (high, HIGH))]
        )
        for forward in (True, False):
            parts = list(windows(covered, cuts, forward=forward))
            ascending = parts if forward else parts[::-1]
            for at in range(-10, 210):
                for digest in (LOW, HIGH):
                    holders = [part for part in parts if part.holds((at, digest))]
                    assert len(holders) == covered.holds((at, digest))
            assert [part.low for part in ascending] == sorted(part.low for part in parts)
            assert len(parts) <= 4  # of up to 60 partitions
            for part in parts:
                first, last = whole_partitions(part, cuts)
                assert first <= part.low[0]
                assert part.high[0] <= last
                assert first in (*cuts, EVERYTHING.low[0])
                assert last + 1 in (*cuts, EVERYTHING.high[0] + 1)


def test_the_newest_page_of_a_busy_archive_needs_one_window() -> None:
    """Behind the present partition are those that were created ahead, and the last one."""
    present = 1000
    cuts = list(range(0, present + 60, 10))
    newest = next(windows(EVERYTHING, cuts, forward=False))
    assert newest.low == (present - 20, b"")
    assert newest.high == EVERYTHING.high
