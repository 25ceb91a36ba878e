"""Windows go on over restarts, whatever was the last that was stored."""

from __future__ import annotations

import pytest

from mapi_proc.send.window_clock import WindowClock


def test_a_window_ends_although_nothing_was_noted_for_an_hour_before_it_began() -> None:
    now = 1000.0
    first = WindowClock(lambda: now, b"", ())
    note = first.note()
    now += 3600
    earlier = first.now()
    now += 2
    label = first.now()
    now = 20.0  # killed, and the host started again
    second = WindowClock(lambda: now, note, (0, earlier, label))
    assert second.used(label) == pytest.approx(0)
    assert second.used(earlier) == pytest.approx(2)
    now += 7
    third = WindowClock(lambda: now, second.note(), (earlier, label))
    assert third.used(label) == pytest.approx(7)


def test_a_note_that_cannot_be_read_counts_as_none() -> None:
    assert WindowClock(lambda: 5.0, b"?", ()).now() == 0
