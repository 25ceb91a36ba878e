"""Work that is tried until it succeeds."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from mapi_proc.receive.worklist import Work, Worklist, WorkVerdict
from tests.support.aio import asyncio_test


@dataclass(slots=True, eq=False)
class Piece(Work):
    name: str
    script: deque[WorkVerdict] = field(default_factory=deque)


class World:
    def __init__(self) -> None:
        self.now = 100.0
        self.tried: list[str] = []
        self.work: Worklist[Piece] = Worklist(self._attempt, lambda: self.now)

    async def _attempt(self, piece: Piece) -> WorkVerdict:
        self.tried.append(piece.name)
        await asyncio.sleep(0)
        return piece.script.popleft() if piece.script else WorkVerdict.DONE

    def add(self, name: str, *script: WorkVerdict) -> Piece:
        piece = Piece(name, deque(script))
        self.work.add(piece)
        return piece

    async def settle(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)


@asyncio_test()
async def test_due_work_is_done_in_order_and_only_online() -> None:
    world = World()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.work.run())
        world.add("first")
        world.add("second")
        await world.settle()
        assert world.tried == []
        world.work.set_online(True)
        await world.settle()
        assert world.tried == ["first", "second"]
        assert len(world.work) == 0
        task.cancel()


@asyncio_test()
async def test_a_failure_waits_longer_each_time_and_is_never_given_up() -> None:
    world = World()
    world.work.set_online(True)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.work.run())
        piece = world.add("stubborn", *[WorkVerdict.FAILED] * 2000)
        await world.settle()
        waits = []
        for _ in range(1999):  # a day and a half, at a minute each
            waits.append(piece.next_attempt - world.now)
            world.work.wake()
            await world.settle()
        assert len(world.tried) == 2000
        assert waits == sorted(waits)
        assert waits[0] == 2.0
        assert waits[-1] == 60.0
        world.work.wake()
        await world.settle()
        assert len(world.work) == 0
        task.cancel()


@asyncio_test()
async def test_what_is_removed_while_it_is_tried_does_not_come_back() -> None:
    world = World()
    world.work.set_online(True)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.work.run())
        piece = world.add("unwanted", WorkVerdict.FAILED, WorkVerdict.FAILED)
        other = world.add("other", WorkVerdict.LATER)
        other.next_attempt = world.now
        while not world.tried:
            await asyncio.sleep(0)
        world.work.remove(piece)
        await world.settle()
        assert world.tried[0] == "unwanted"
        assert "unwanted" not in world.tried[1:]
        assert piece not in world.work
        assert other.attempts == 0 or other not in world.work
        task.cancel()


@asyncio_test()
async def test_what_is_woken_while_it_is_attempted_is_tried_again_at_once() -> None:
    now = 100.0
    tried: list[str] = []

    async def attempt(piece: Piece) -> WorkVerdict:
        tried.append(piece.name)
        if len(tried) == 1:
            work.wake()  # a store peer has appeared, too late for this attempt
            return WorkVerdict.FAILED
        return WorkVerdict.DONE

    work: Worklist[Piece] = Worklist(attempt, lambda: now)
    work.set_online(True)
    work.add(Piece("one"))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work.run())
        while len(work):
            await asyncio.sleep(0.01)
        task.cancel()
    assert tried == ["one", "one"]
