"""Live events that are held while earlier ones are replayed."""

from __future__ import annotations

from typing import NamedTuple

from ipc_schema.streams import HeldEvents


class Live(NamedTuple):
    instance: bytes
    epoch: bytes
    seq: int


def held(*seqs: int, max_bytes: int = 1 << 20, epoch: bytes = b"e") -> HeldEvents:
    found = HeldEvents(max_bytes)
    for seq in seqs:
        found.add(Live(b"i", epoch, seq), b"%d" % seq)
    return found


def taken(events: HeldEvents, last: int) -> list[bytes]:
    return [payload for _, payload in events.take(b"i", b"e", last)]


def test_a_replay_that_reaches_them_gives_way_to_them() -> None:
    events = held(5, 6, 7)
    assert taken(events, 3) == []
    assert taken(events, 4) == [b"5", b"6", b"7"]
    assert taken(events, 4) == []
    assert events.bytes == 0
    assert taken(held(5, 6, 7), 6) == [b"7"], "the replay went on into them"
    assert taken(held(5, 6, 7), 7) == []


def test_a_gap_begins_a_new_run() -> None:
    events = held(5, 6)
    assert events.add(Live(b"i", b"e", 8), b"8") == 2
    assert taken(events, 4) == []
    assert taken(events, 7) == [b"8"]


def test_memory_is_bounded_and_another_epoch_is_not_mixed_in() -> None:
    events = held(*range(1, 100), max_bytes=10 << 10)
    assert events.bytes <= 11 << 10
    assert taken(events, 98) == [b"99"]
    assert taken(held(5, epoch=b"other"), 4) == []
