"""What readers of one app's journal see of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logos_client.events import ConnectionStatusChange, LinkLost
from logos_gateway.apps.window import JournalPosition, JournalWindow

A, B = b"a" * 16, b"b" * 16


def event(seq: int, stream: bytes = A) -> ConnectionStatusChange:
    return ConnectionStatusChange(stream, seq, 0, "Connected", "")


def filled(*seqs: int, stream: bytes = A) -> JournalWindow:
    window = JournalWindow()
    for seq in seqs:
        window.append(event(seq, stream), 10)
    return window


def seqs_from(window: JournalWindow, index: int) -> list[int]:
    found = []
    while entries := window.batch(index, 25):
        found += [entry.position.seq if entry.position else -1 for entry in entries]
        index = entries[-1].number + 1
    return found


def test_a_batch_is_bounded_in_bytes_and_has_one_at_least() -> None:
    window = filled(1, 2, 3, 4)
    assert [len(window.batch(window.first, size)) for size in (0, 10, 29, 1000)] == [1, 1, 2, 4]
    assert len(window.batch(window.first + 3, 1000)) == 1
    assert window.batch(window.head, 1000) == []


def test_a_reader_begins_at_the_oldest_or_behind_what_it_has_seen() -> None:
    window = filled(4, 5, 6)
    assert seqs_from(window, window.first) == [4, 5, 6]
    assert seqs_from(window, window.after(JournalPosition(A, 5))) == [6]
    assert seqs_from(window, window.after(JournalPosition(A, 2))) == [4, 5, 6]
    assert seqs_from(window, window.after(JournalPosition(A, 6))) == []
    assert seqs_from(window, window.after(JournalPosition(B, 99))) == [4, 5, 6]
    window.append(event(7), 10)
    assert seqs_from(window, window.after(JournalPosition(A, 6))) == [7]


def test_acknowledging_drops_the_oldest() -> None:
    window = filled(1, 2, 3)
    window.acknowledge(JournalPosition(B, 3))
    assert window.bytes == 30
    window.acknowledge(JournalPosition(A, 2))
    assert seqs_from(window, 0) == [3]
    assert window.bytes == 10
    window.acknowledge(JournalPosition(A, 9))
    assert len(window) == 0
    assert window.bytes == 0
    assert window.first == window.head == 3


def test_events_about_the_connection_go_with_their_neighbours() -> None:
    window = filled(1)
    window.append(LinkLost("x"), 5)
    window.append(event(2), 10)
    window.acknowledge(JournalPosition(A, 1))
    assert seqs_from(window, 0) == [-1, 2]
    window.acknowledge(JournalPosition(A, 2))
    assert window.bytes == 0


def test_a_new_stream_begins_behind_the_old_one() -> None:
    window = filled(7, 8)
    window.append(event(1, B), 10)
    assert seqs_from(window, window.after(JournalPosition(A, 8))) == [1]
    window.acknowledge(JournalPosition(B, 1))
    assert len(window) == 0


def test_an_index_of_what_is_gone_leads_to_the_oldest() -> None:
    window = filled(1, 2, 3, 4)
    window.acknowledge(JournalPosition(A, 2))
    assert seqs_from(window, 0) == [3, 4]
    window.clear()
    assert window.batch(0, 100) == []


@given(st.lists(st.integers(0, 30), max_size=8))
def test_whatever_is_acknowledged_the_rest_stays_in_order(acks: list[int]) -> None:
    window = filled(*range(1, 31))
    for seq in acks:
        window.acknowledge(JournalPosition(A, seq))
    rest = list(range(max(acks, default=0) + 1, 31))
    assert seqs_from(window, 0) == rest
    assert window.bytes == 10 * len(rest)


def test_positions_as_text() -> None:
    position = JournalPosition(A, 12)
    assert JournalPosition.parse(str(position)) == position
    for text in ("", "12", "zz:1", A.hex(), f"{A.hex()}:", f"{A.hex()}:-1", f"{A.hex()}:1x", f"{'g' * 32}:1"):
        with pytest.raises(ValueError):
            JournalPosition.parse(text)
