"""The bound on requests under way."""

from __future__ import annotations

import asyncio

import pytest

from ipc_schema.errors import ErrorCode, IpcError
from logos_client._turnstile import Turnstile
from tests.unit.logos_client.support import both_loops


def soon() -> float:
    return asyncio.get_running_loop().time() + 5


@both_loops()
async def test_those_in_line_enter_in_order() -> None:
    gate = Turnstile(1)
    assert gate.enter()
    assert not gate.enter()
    entered: list[int] = []

    async def visit(number: int) -> None:
        await gate.wait(soon(), "x")
        entered.append(number)
        await asyncio.sleep(0)
        gate.leave()

    visits = [asyncio.create_task(visit(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert entered == []
    gate.leave()
    await asyncio.gather(*visits)
    assert entered == [0, 1, 2, 3, 4]
    assert gate.enter()
    assert not gate.enter()


@both_loops()
async def test_a_place_for_one_who_gave_up_goes_to_the_next() -> None:
    gate = Turnstile(1)
    gate.enter()
    first = asyncio.create_task(gate.wait(soon(), "x"))
    second = asyncio.create_task(gate.wait(soon(), "x"))
    await asyncio.sleep(0)
    gate.leave()
    first.cancel()  # its place has come, but it does not know yet
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    gate.leave()
    assert gate.enter()


@both_loops()
async def test_waiting_ends_at_the_deadline() -> None:
    gate = Turnstile(1)
    gate.enter()
    with pytest.raises(IpcError, match="too many requests") as failed:
        await gate.wait(asyncio.get_running_loop().time() + 0.01, "x")
    assert failed.value.code is ErrorCode.DEADLINE_EXCEEDED
    gate.leave()
    assert gate.enter()


@both_loops()
async def test_the_bound_may_change_while_some_are_inside() -> None:
    gate = Turnstile(1)
    gate.enter()
    waiting = [asyncio.create_task(gate.wait(soon(), "x")) for _ in range(3)]
    await asyncio.sleep(0)
    gate.resize(3)
    await asyncio.gather(*waiting[:2])
    assert not waiting[2].done()
    gate.resize(1)
    gate.leave()
    gate.leave()
    await asyncio.sleep(0)
    assert not waiting[2].done()
    gate.leave()
    await waiting[2]
    assert not gate.enter()


@both_loops()
async def test_a_request_takes_as_many_places_as_it_counts_for() -> None:
    gate = Turnstile(10)
    assert gate.enter(6)
    assert not gate.enter(5)
    large = asyncio.create_task(gate.wait(soon(), "x", 5))
    small = asyncio.create_task(gate.wait(soon(), "x", 4))
    await asyncio.sleep(0)
    assert not gate.enter(1), "those in line come first"
    large.cancel()
    await small
    assert not gate.enter(1)
    gate.leave(6)
    gate.leave(4)
    assert gate.enter(20), "more than there are, alone"
    assert not gate.enter(1)
    gate.leave(20)
    assert gate.enter(10)
