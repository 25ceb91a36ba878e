"""What an app has seen, held against what the database knows of its own past."""

from __future__ import annotations

import pytest

from ipc_schema.hello import SeenPosition
from mapi_proc.apps.starts import Starts

APP = 7
ONE, TWO, THREE = (bytes([number]) * 16 for number in (1, 2, 3))


def seen(seq: int, instance: bytes) -> SeenPosition:
    return SeenPosition(stream=bytes(16), seq=seq, instance=instance)


def lives(*last: tuple[bytes, int]) -> Starts:
    """The starts of one database: instance, and where the app's stream stood then."""
    note = None
    for instance, seq in last:
        starts = Starts(note, instance, {APP: seq})
        note = starts.to_note()
    return starts


def test_a_database_with_an_unbroken_past_is_believed() -> None:
    starts = lives((ONE, 0), (TWO, 50), (THREE, 90))
    for seq, instance in ((1, ONE), (50, ONE), (50, TWO), (90, TWO), (90, THREE), (120, THREE)):
        assert not starts.contradicts(APP, seen(seq, instance), 120)


def test_a_snapshot_put_back_is_noticed_also_when_the_numbers_have_caught_up() -> None:
    # Taken in the life of ONE at 50; the app saw 100 from it. TWO goes on from 50, and is at 110 by now.
    starts = lives((ONE, 0), (TWO, 50))
    assert starts.contradicts(APP, seen(100, ONE), 50)
    assert starts.contradicts(APP, seen(100, ONE), 110)
    assert not starts.contradicts(APP, seen(50, ONE), 110)


def test_a_process_that_the_database_has_never_heard_of_is_noticed() -> None:
    # Taken in the life of ONE; the app saw 100 from TWO, of which the snapshot knows nothing.
    starts = lives((ONE, 0), (THREE, 50))
    assert starts.contradicts(APP, seen(100, TWO), 110)


def test_an_app_that_was_away_for_many_starts_is_believed() -> None:
    many = [(bytes([number]) * 16, 10) for number in range(4, 60)]
    starts = lives((ONE, 0), (TWO, 10), *many)
    assert not starts.contradicts(APP, seen(10, ONE), 10)
    assert starts.contradicts(APP, seen(11, ONE), 20)


@pytest.mark.parametrize("note", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x91\x92\x01\x02", b"no"])
def test_a_damaged_note_is_ignored(note: bytes) -> None:
    assert Starts(note, TWO, {APP: 5}).to_note() == Starts(None, TWO, {APP: 5}).to_note()
