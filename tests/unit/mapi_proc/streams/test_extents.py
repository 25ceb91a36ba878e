"""Bounds without a record per event."""

from __future__ import annotations

from mapi_proc.database import JournalExtent
from mapi_proc.streams.extents import Extents


def test_runs_are_merged_and_dropped_oldest_first() -> None:
    extents = Extents(max_bytes=6400, max_age=1 << 60)
    for seq in range(1, 101):
        extents.add(seq, 50, seq)  # two in a run
    assert extents.total == 5000
    assert extents.shrink(5000) == (0, 0)
    assert extents.shrink(4950) == (2, 100)
    assert extents.total == 4900


def test_release_frees_whole_runs_and_all_at_the_end() -> None:
    extents = Extents(max_bytes=6400, max_age=1 << 60)
    for seq in range(1, 6):
        extents.add(seq, 50, seq)
    extents.release(1)
    assert extents.total == 250
    extents.release(3)
    assert extents.total == 150
    extents.release(5)
    assert extents.total == 0


def test_the_newest_run_is_never_dropped_for_its_size() -> None:
    extents = Extents(max_bytes=100, max_age=1 << 60)
    extents.add(1, 1000, 1)
    assert extents.shrink(100) == (0, 0)
    extents.add(2, 1000, 1)
    assert extents.shrink(100) == (1, 1000)


def test_age_also_in_a_slow_stream() -> None:
    extents = Extents(max_bytes=1 << 30, max_age=640)
    for seq, time in enumerate(range(0, 640, 5), 1):
        extents.add(seq, 1, time)
    last = extents.expire(100)
    assert extents.total == 128 - last
    assert 18 <= last <= 20


def test_a_clock_set_back_keeps_events_rather_longer() -> None:
    extents = Extents(max_bytes=1 << 30, max_age=640)
    extents.add(1, 1, 1000)
    extents.add(2, 1, 10)
    assert extents.expire(500) == 0
    assert extents.expire(1001) == 2


def test_loaded_runs() -> None:
    extents = Extents(6400, 640, [JournalExtent(16, 900, 5), JournalExtent(20, 100, 9)])
    assert extents.total == 1000
    assert extents.expire(6) == 16
    extents.add(21, 10, 10)
    extents.release(21)
    assert extents.total == 0
