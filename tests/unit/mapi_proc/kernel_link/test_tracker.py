"""The tracker of one shard's stream: order, gaps, epochs, coverage."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from mapi_proc.kernel_link.tracker import UNKNOWN_NS, Live, Missed, StreamPlace, StreamTracker, uncovered

I1, I2 = b"i" * 16, b"j" * 16
E1, E2 = b"e" * 8, b"f" * 8


def fresh(now: int = 1000) -> StreamTracker:
    tracker = StreamTracker(None, now)
    tracker.leased(I1, E1, 1, 0, [(now, None)], now)
    return tracker


@pytest.mark.parametrize(
    ("coverage", "expected"),
    [
        ([], [(10, None)]),
        ([(0, None)], []),
        ([(0, 5)], [(10, None)]),
        ([(0, 12), (15, None)], [(12, 15)]),
        ([(0, 12), (15, 18)], [(12, 15), (18, None)]),
        ([(11, 13), (13, 20)], [(10, 11)]),
        ([(20, None)], [(10, None)]),
        ([(12, 25)], [(10, 12)]),
    ],
)
def test_uncovered(coverage: list[tuple[int, int | None]], expected: list[tuple[int, int | None]]) -> None:
    assert uncovered(coverage, 10, 20) == expected


def test_live_events_in_order_are_delivered_and_repeats_dropped() -> None:
    tracker = fresh()
    assert tracker.live(I1, E1, 1, 1001) is Live.DELIVER
    assert tracker.live(I1, E1, 1, 1001) is Live.DROP
    assert tracker.live(I1, E1, 2, 1002) is Live.DELIVER
    assert tracker.position == StreamPlace(I1, E1, 2, 1000)


def test_a_gap_asks_for_a_resync_and_then_waits_until_replayed() -> None:
    tracker = fresh()
    assert tracker.live(I1, E1, 3, 1003) is Live.RESYNC
    assert tracker.live(I1, E1, 4, 1004) is Live.DROP
    tracker.leased(I1, E1, 1, 4, [(1000, None)], 1005)
    assert tracker.behind
    assert not tracker.live_now
    assert [tracker.replayed(seq, 1000 + seq) for seq in (1, 2, 3)] == [True, True, True]
    tracker.page_done(5, complete=False)
    assert tracker.behind, "the head moved while we replayed"
    assert tracker.replayed(4, 1004)
    assert tracker.replayed(5, 1005)
    tracker.page_done(5, complete=True)
    assert tracker.live(I1, E1, 6, 1006) is Live.DELIVER
    assert tracker.missed == []


class Event(NamedTuple):
    instance: bytes
    epoch: bytes
    seq: int


def held(tracker: StreamTracker, *seqs: int) -> None:
    for seq in seqs:
        assert tracker.live(I1, E1, seq, 1000 + seq) is not Live.DELIVER
        assert tracker.hold(Event(I1, E1, seq), b"") == 0


def taken(tracker: StreamTracker) -> list[int]:
    events = [event for event, _ in tracker.take_held()]
    assert all(tracker.replayed(event.seq, 1000 + event.seq) for event in events)
    return [event.seq for event in events]


def test_a_replay_ends_where_the_live_events_begin_that_came_meanwhile() -> None:
    tracker = fresh()
    held(tracker, 3, 4)
    tracker.leased(I1, E1, 1, 4, [(1000, None)], 1005)
    assert taken(tracker) == [], "1 and 2 are missing"
    assert [tracker.replayed(seq, 1000 + seq) for seq in (1, 2)] == [True, True]
    tracker.page_done(2, complete=False)
    held(tracker, 5)
    assert taken(tracker) == [3, 4, 5]
    assert not tracker.behind
    assert tracker.live(I1, E1, 6, 1006) is Live.DELIVER


def test_what_comes_before_the_reply_to_a_lease_is_not_lost() -> None:
    tracker = StreamTracker(None, 1000)
    held(tracker, 7, 8)
    tracker.leased(I1, E1, 1, 6, [(1000, None)], 1005)
    assert taken(tracker) == [7, 8]
    assert tracker.live(I1, E1, 8, 1008) is Live.DROP
    assert tracker.hold(Event(I1, E1, 8), b"") == 1, "a duplicate"
    tracker.suspect()
    held(tracker, 9)
    tracker.leased(I1, E1, 1, 8, [(1000, None)], 1009)
    assert taken(tracker) == [9]


def test_a_heartbeat_shows_the_loss_of_the_last_events() -> None:
    tracker = fresh()
    assert tracker.heartbeat(I1, E1, 0, 1001, True) is Live.DROP
    assert tracker.heartbeat(I1, E1, 2, 1002, True) is Live.RESYNC


def test_a_new_interest_begins_at_the_head() -> None:
    tracker = StreamTracker(None, 1000)
    tracker.leased(I1, E1, 1, 500, [(1, None)], 1000)
    assert not tracker.behind
    assert tracker.live(I1, E1, 501, 1001) is Live.DELIVER


def test_a_restarted_mapi_replays_from_its_position() -> None:
    tracker = StreamTracker(StreamPlace(I1, E1, 7, 900), 1000)
    tracker.leased(I1, E1, 3, 9, [(1, None)], 1000)
    assert tracker.behind
    assert tracker.missed == []


def test_a_trimmed_ring_is_reported_as_missing() -> None:
    tracker = StreamTracker(StreamPlace(I1, E1, 7, 900), 1000)
    tracker.leased(I1, E1, 20, 25, [(1, None)], 1000)
    assert tracker.missed == [Missed(900, 1000, "replay range exceeded")]
    assert tracker.replayed(20, 990)


def test_a_renewed_lease_while_live_is_not_a_gap() -> None:
    tracker = fresh()
    assert tracker.live(I1, E1, 1, 1001) is Live.DELIVER
    tracker.leased(I1, E1, 1, 4, [(1000, None)], 1005)  # 2 to 4 are on their way to us
    assert not tracker.behind
    assert tracker.live(I1, E1, 2, 1002) is Live.DELIVER
    tracker.suspect()
    tracker.leased(I1, E1, 1, 4, [(1000, None)], 1006)
    assert tracker.behind, "after a silence they are asked for"


def test_what_was_trimmed_during_a_long_replay_is_missing_until_then() -> None:
    tracker = StreamTracker(StreamPlace(I1, E1, 7, 900), 1000)
    tracker.leased(I1, E1, 3, 9, [(1, None)], 1000)
    tracker.trimmed(20, 3000)
    assert tracker.missed == [Missed(900, 3000, "replay range exceeded")]


def test_a_killed_kernel_is_a_hole_until_the_new_one_is_covered() -> None:
    tracker = fresh()
    tracker.heartbeat(I1, E1, 0, 2000, True)
    tracker.lost_kernel()
    assert tracker.live(I1, E1, 1, 2001) is Live.DROP
    tracker.leased(I2, E2, 1, 0, [], 3000)
    assert tracker.missed == [], "still open: its end is not known"
    assert tracker.position.good_ns == 2000
    tracker.leased(I2, E2, 1, 0, [(3500, None)], 4000)
    assert tracker.missed == [Missed(2000, 3500, "kernel restarted")]
    assert tracker.live(I2, E2, 1, 4001) is Live.DELIVER
    assert tracker.position.good_ns == 4000


def test_a_kernel_killed_before_its_first_peer_was_heard_of_is_a_hole_too() -> None:
    """A new subscription: between the last heartbeat and its end the kernel may have found a peer."""
    tracker = StreamTracker(None, 1000)
    tracker.leased(I1, E1, 1, 0, [], 1000)
    assert tracker.heartbeat(I1, E1, 0, 1800, False) is Live.DROP
    tracker.lost_kernel()
    tracker.leased(I2, E2, 1, 0, [], 3000)
    tracker.leased(I2, E2, 1, 0, [(3500, None)], 4000)
    assert tracker.missed == [Missed(1000, 3500, "kernel restarted")]


def test_a_new_epoch_replays_what_was_recorded_since_activation() -> None:
    tracker = fresh()
    tracker.leased(I1, E2, 1, 3, [(1000, 1500), (1600, None)], 2000)
    assert tracker.behind
    assert tracker.seq == 0
    assert tracker.missed == [Missed(1500, 1600, "stream restarted")]


def test_time_without_mesh_peers_is_missing_but_not_before_the_first() -> None:
    tracker = StreamTracker(None, 1000)
    tracker.leased(I1, E1, 1, 0, [], 1000)
    tracker.leased(I1, E1, 1, 0, [(1500, None)], 2000)
    assert tracker.missed == [], "before the first mesh peer nothing was promised"
    assert tracker.heartbeat(I1, E1, 0, 2500, False) is Live.RENEW
    tracker.leased(I1, E1, 1, 0, [(1500, 2400)], 2600)
    tracker.leased(I1, E1, 1, 0, [(1500, 2400)], 2800)
    assert tracker.missed == []
    tracker.leased(I1, E1, 1, 0, [(1500, 2400), (2900, None)], 3000)
    assert tracker.missed == [Missed(2400, 2900, "no mesh peers")]


def test_a_clock_that_was_an_hour_ahead_hides_no_gap() -> None:
    """An hour ahead, set right, then the kernel is killed. The shell has a clock that no step moves; this is
    the case that even that clock went back, as it does when the host starts again."""
    hour = 3600
    tracker = StreamTracker(None, 1000 + hour)
    tracker.leased(I1, E1, 1, 0, [(1000 + hour, None)], 1000 + hour)
    assert tracker.heartbeat(I1, E1, 0, 1010 + hour, True) is Live.DROP
    assert tracker.heartbeat(I1, E1, 0, 1011, True) is Live.DROP
    tracker.lost_kernel()
    tracker.leased(I2, E2, 1, 0, [(1040, None)], 1041)
    assert tracker.missed == [Missed(1011, 1040, "kernel restarted")]
    assert tracker.position.good_ns <= 1041


def test_a_position_from_the_future_tells_nothing_of_the_time_before_now() -> None:
    now = 10 * UNKNOWN_NS
    tracker = StreamTracker(StreamPlace(I1, E1, 4, now + 1), now)
    tracker.leased(I2, E2, 1, 0, [(now, None)], now + 5)
    ((start, end, _, _),) = tracker.missed
    assert (start, end) == (now - UNKNOWN_NS, now)
