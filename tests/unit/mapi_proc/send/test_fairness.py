"""Fair shares of the outbox, and turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.errors import ErrorCode, IpcError
from mapi_proc.send.fairness import FairQueue, Room
from mapi_proc.send.task import SendState, SendTask


def task(scope: bytes, number: int) -> SendTask:
    return SendTask(number.to_bytes(16), scope, "/a/1/b/proto", 0, b"payload", b"", False)


def fill(room: Room, scope: bytes, size: int = 10) -> int:
    """Send until it is refused; how many were taken."""
    taken = 0
    while True:
        try:
            room.check(scope, size)
        except IpcError:
            return taken
        room.take(scope, size)
        taken += 1


def test_one_app_alone_gets_nearly_all_and_leaves_room_for_others() -> None:
    room = Room(900, 1 << 30)
    assert fill(room, b"busy") == 800
    assert fill(room, b"second") > 61
    assert fill(room, b"third") > 5
    assert room.count <= 900


def test_bytes_are_shared_as_well() -> None:
    room = Room(1 << 30, 9_000)
    assert fill(room, b"busy") <= 810
    assert fill(room, b"other") > 10
    with pytest.raises(IpcError, match="wait for the network") as refused:
        room.check(b"third", 9_001)
    assert refused.value.code is ErrorCode.BUSY


def test_a_tiny_outbox_still_takes_what_it_says() -> None:
    assert fill(Room(3, 1 << 30), b"only") == 3


def test_what_is_given_back_can_be_taken_again() -> None:
    room = Room(90, 1 << 30)
    taken = fill(room, b"a")
    for _ in range(taken):
        room.give_back(b"a", 10)
    assert (room.count, room.size) == (0, 0)
    assert fill(room, b"a") == taken


@given(st.lists(st.integers(0, 4), max_size=80))
def test_apps_take_turns_and_keep_their_own_order(scopes: list[int]) -> None:
    queue = FairQueue()
    for number, scope in enumerate(scopes):
        queue.push(task(bytes([scope]), number))
    order: list[tuple[int, int]] = []
    while (one := queue.peek()) is not None:
        queue.pop()
        order.append((one.scope[0], int.from_bytes(one.request_id)))
    assert len(order) == len(scopes)
    for app in set(scopes):
        mine = [number for scope, number in order if scope == app]
        assert mine == sorted(mine)
        first = next(place for place, (scope, _) in enumerate(order) if scope == app)
        assert first < len(set(scopes)), "its first one waits for at most one of each other app"


def test_what_was_cancelled_is_passed_over() -> None:
    queue = FairQueue()
    first, second = task(b"a", 1), task(b"a", 2)
    queue.push(first)
    queue.push(second)
    first.state = SendState.CANCELLED
    assert queue.peek() is second
    queue.pop()
    assert queue.peek() is None
