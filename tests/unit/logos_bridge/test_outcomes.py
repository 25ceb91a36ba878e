"""Outcomes that came at the wrong time: kept, or found out."""

from __future__ import annotations

from ipc_schema.mapi.methods import PendingReply, PendingSend
from logos_bridge.outcomes import Doubts, NewestOutcomes


def pending(*sends: tuple[bytes, int], total: int | None = None) -> PendingReply:
    listed = tuple(
        PendingSend(request_id=request_id, content_topic="/a/1/b/c", state="attempted", accepted_ns=accepted)
        for request_id, accepted in sends
    )
    return PendingReply(sends=listed, total=len(listed) if total is None else total)


def test_final_fates_are_kept_and_the_oldest_make_room() -> None:
    outcomes = NewestOutcomes(2)
    outcomes.add(b"1", "sent", "")
    outcomes.add(b"2", "propagated", "")
    outcomes.add(b"3", "error", "too old")
    assert [outcomes.get(one) for one in (b"1", b"2", b"3")] == [("sent", ""), None, ("error", "too old")]
    outcomes.add(b"4", "sent", "")
    assert [outcomes.get(one) for one in (b"1", b"3", b"4")] == [None, ("error", "too old"), ("sent", "")]


def test_one_is_lost_that_two_looks_in_a_row_miss() -> None:
    doubts = Doubts()
    asked = {b"1": 10, b"2": 20}
    assert doubts.look(asked, pending((b"2", 20))) == set()
    assert doubts.look(asked, pending((b"1", 10))) == set(), "another one is missing now"
    assert doubts.look(asked, pending((b"1", 10))) == {b"2"}
    assert doubts.look({}, pending()) == set()
    assert doubts.look(asked, pending()) == set(), "it was not asked for in between"


def test_a_list_of_the_oldest_says_nothing_of_younger_ones() -> None:
    doubts = Doubts()
    asked = {b"old": 10, b"young": 30}
    assert [doubts.look(asked, pending((b"x", 20), total=1_500)) for _ in range(2)] == [set(), {b"old"}]
