"""Rows of several events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapi_proc.database.journal import ROW_BYTES, SEQ_BITS, JournalRow, cost_up_to, events_of
from mapi_proc.database.records import DamagedError

FRAMES = st.tuples(st.binary(max_size=40), st.binary(max_size=40))


@given(st.integers(1, 1 << 30), st.lists(FRAMES, min_size=1, max_size=30))
def test_what_goes_in_comes_out(first: int, frames: list[tuple[bytes, bytes]]) -> None:
    row = JournalRow(7, first, 5, *frames[0])
    for seq, (header, payload) in enumerate(frames[1:], first + 1):
        assert row.add(seq, 5, header, payload)
    key, time, cost, payload_id, headers, payloads, sizes = row.columns()
    assert (key >> SEQ_BITS, time, payload_id) == (7, 5, None)
    assert cost == sum(len(header) + len(payload) for header, payload in frames)
    events = list(events_of(row.last, headers, payloads, sizes))
    assert events == [(seq, *pair) for seq, pair in enumerate(frames, first)]
    for after in range(first - 2, row.last + 1):
        assert (
            list(events_of(row.last, headers, payloads, sizes, after)) == events[max(0, after - first + 1) :]
        )
        if sizes is not None:
            over = sum(len(event.header) + len(event.payload) for event in events if event.seq <= after)
            assert cost_up_to(after, row.last, cost, sizes) == over


def test_what_does_not_fit_begins_a_row_of_its_own() -> None:
    row = JournalRow(1, 1, 5, b"h", b"p")
    assert not row.add(3, 5, b"h", b"p"), "2 is missing"
    assert not row.add(2, 5, b"h", bytes(ROW_BYTES - 2))
    assert row.add(2, 5, b"h", bytes(ROW_BYTES - 3))
    assert not JournalRow(1, 1, 5, b"h", b"p", payload_id=4).add(2, 5, b"h", b"p")


def test_a_shared_payload_is_not_in_the_row() -> None:
    assert JournalRow(1, 3, 5, b"h", b"pp", payload_id=4).columns() == (
        1 << 40 | 3,
        5,
        3,
        4,
        b"h",
        None,
        None,
    )


@pytest.mark.parametrize("sizes", [b"", bytes(8), b"\x01\0\0\0" * 4, b"\xff" * 16, b"\x02\0\0\0" * 3])
def test_sizes_that_no_row_has_are_damage(sizes: bytes) -> None:
    with pytest.raises(DamagedError, match="the events up to 9"):
        list(events_of(9, b"hhhh", b"pppp", sizes))
    with pytest.raises(DamagedError, match="the events up to 9"):
        cost_up_to(8, 9, 8, sizes)


@pytest.mark.parametrize("frames", [(None, b"p"), (b"h", None)])
@pytest.mark.parametrize("sizes", [None, b"\x01\0\0\0" * 2])
def test_a_row_without_header_or_payload_is_damage(
    frames: tuple[bytes | None, bytes | None], sizes: bytes | None
) -> None:
    with pytest.raises(DamagedError, match="the events up to 9"):
        list(events_of(9, *frames, sizes))
