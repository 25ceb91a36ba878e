"""What is under way follows the answers: overload must not be met with more load."""

from __future__ import annotations

import asyncio

from logos_bridge.congestion import CongestionWindow, backoff
from tests.support.aio import asyncio_test


@asyncio_test()
async def test_answers_widen_it_up_to_the_largest() -> None:
    window = CongestionWindow(200)
    first = window.width
    for _ in range(1_000):
        window.leave(await window.enter(), answered=True)
    assert first < window.width == 200


@asyncio_test()
async def test_failures_of_one_flight_narrow_it_once_and_never_below_the_least() -> None:
    window = CongestionWindow(512)
    before = window.width
    flight = [await window.enter() for _ in range(before)]
    for ticket in flight:
        window.leave(ticket, answered=False)
    assert window.width == before // 2
    for _ in range(20):
        window.leave(await window.enter(), answered=False)
    least = window.width
    window.leave(await window.enter(), answered=False)
    assert window.width == least > 1


@asyncio_test()
async def test_after_a_failure_it_widens_by_one_for_a_whole_flight() -> None:
    window = CongestionWindow(512)
    window.leave(await window.enter(), answered=False)
    narrow = window.width
    for _ in range(narrow + 1):
        window.leave(await window.enter(), answered=True)
    assert window.width == narrow + 1


@asyncio_test()
async def test_the_others_wait_in_order_and_one_that_is_cancelled_takes_no_place() -> None:
    window = CongestionWindow(1)
    ticket = await window.enter()
    entered: list[int] = []

    async def one(number: int) -> None:
        mine = await window.enter()
        entered.append(number)
        window.leave(mine, answered=True)

    tasks = [asyncio.create_task(one(number)) for number in range(4)]
    await asyncio.sleep(0)
    assert (entered, window.under_way) == ([], 1)
    tasks[1].cancel()
    window.leave(ticket, answered=True)
    tasks[0].cancel()  # its place was given just now
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (entered, window.under_way) == ([2, 3], 0)


@asyncio_test()
async def test_what_is_urgent_goes_ahead_of_all_that_waits() -> None:
    window = CongestionWindow(1)
    ticket = await window.enter()
    order: list[str] = []

    async def one(name: str, *, ahead: bool) -> None:
        mine = await window.enter(ahead=ahead)
        order.append(name)
        window.leave(mine, answered=True)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(one(f"{number}", ahead=False))
        group.create_task(one("sign of life", ahead=True))
        await asyncio.sleep(0)
        window.leave(ticket, answered=True)
    assert order == ["sign of life", "0", "1", "2"]


def test_each_failure_in_a_row_doubles_the_wait_up_to_a_bound() -> None:
    assert 0.25 <= backoff(1) <= 0.5 <= backoff(2) <= 1.0
    assert 4.0 <= backoff(10_000) <= 8.0
