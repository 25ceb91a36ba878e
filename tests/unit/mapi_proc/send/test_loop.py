"""The send loop over a kernel that the test scripts, with real asyncio scheduling and a clock of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from ipc_schema.errors import ErrorCode, IpcError
from mapi_proc.send.loop import SendLoop
from mapi_proc.send.task import WINDOW_ERROR, NoPeers, Outcome, Published, SendTask, State, Unknown
from tests.support.aio import asyncio_test


class Store:
    """Records what the loop asks for; outcomes come from `script` (the last one repeats)."""

    def __init__(self, *script: Outcome) -> None:
        self.script = list(script)
        self.log: list[str] = []
        self.forced: list[bool] = []
        self.done: asyncio.Queue[SendTask] = asyncio.Queue()
        self.retried = asyncio.Event()
        self.gate: asyncio.Event | None = None
        self.under_way = 0
        self.most = 0

    async def attempting(self, task: SendTask) -> None:
        task.timestamp = 1
        task.message_hash = b"h" * 32
        self.log.append("attempting")

    async def publish(self, task: SendTask, force: bool) -> Outcome:
        assert task.timestamp
        self.log.append("publish")
        self.forced.append(force)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if self.gate is not None:
            await self.gate.wait()
        self.under_way -= 1
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]

    def retrying(self, task: SendTask, window_used: float) -> None:
        self.retried.set()

    def finished(self, task: SendTask) -> None:
        self.done.put_nowait(task)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def task(number: int = 0) -> SendTask:
    return SendTask(number.to_bytes(16), b"app", "/a/1/b/proto", 0, b"payload", b"", False)


@asynccontextmanager
async def running(loop: SendLoop) -> AsyncIterator[None]:
    runner = asyncio.create_task(loop.run())
    try:
        yield
    finally:
        runner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await runner


def make(store: Store, clock: Callable[[], float], **bounds: int) -> SendLoop:
    return SendLoop(store, clock=clock, jitter=lambda: 0.5, **bounds)


@asyncio_test()
async def test_the_attempt_is_written_before_it_is_published() -> None:
    store, clock = Store(Published(2, False)), Clock()
    loop = make(store, clock)
    loop.set_online(True)
    async with running(loop):
        loop.accept(task())
        done = await store.done.get()
    assert done.state is State.PROPAGATED
    assert store.log == ["attempting", "publish"]
    assert len(loop) == 0
    assert loop.pending_bytes == 0


@asyncio_test()
async def test_nothing_is_attempted_while_the_kernel_is_away() -> None:
    store, clock = Store(Published(1, False)), Clock()
    loop = make(store, clock)
    async with running(loop):
        loop.accept(task())
        clock.now += 1000
        await asyncio.sleep(0)
        assert store.log == []
        loop.set_online(True)
        assert (await store.done.get()).state is State.PROPAGATED


@asyncio_test()
async def test_no_peers_then_peers_appear() -> None:
    store, clock = Store(NoPeers(), Published(1, False)), Clock()
    loop = make(store, clock)
    loop.set_online(True)
    async with running(loop):
        loop.accept(task())
        await store.retried.wait()
        assert store.done.empty()
        loop.wake()
        assert (await store.done.get()).state is State.PROPAGATED
    assert store.forced == [False, True]


@asyncio_test()
async def test_the_window_ends_a_send_that_never_propagates_even_without_a_kernel() -> None:
    store, clock = Store(Unknown("kernel restarted")), Clock()
    loop = make(store, clock)
    loop.set_online(True)
    async with running(loop):
        loop.accept(task())
        await store.retried.wait()
        clock.now += 61
        loop.set_online(False)
        done = await store.done.get()
    assert (done.state, done.error) == (State.FAILED, WINDOW_ERROR)


@asyncio_test()
async def test_attempts_at_once_are_bounded_and_in_order() -> None:
    store, clock = Store(Published(1, False)), Clock()
    store.gate = asyncio.Event()
    loop = make(store, clock, in_flight=3)
    loop.set_online(True)
    async with running(loop):
        for number in range(10):
            loop.accept(task(number))
        while store.under_way < 3:
            await asyncio.sleep(0)
        store.gate.set()
        finished = [(await store.done.get()).request_id for _ in range(10)]
    assert store.most == 3
    assert finished == [number.to_bytes(16) for number in range(10)]


@asyncio_test()
async def test_a_send_resumed_after_a_restart_is_forced_and_keeps_its_window() -> None:
    store, clock = Store(NoPeers()), Clock()
    loop = make(store, clock)
    loop.set_online(True)
    old = task()
    old.attempts, old.timestamp, old.message_hash, old.state = 1, 7, b"x" * 32, State.ATTEMPTED
    async with running(loop):
        loop.resume(old, window_used=59.5)
        await store.retried.wait()
        assert store.forced == [True]
        clock.now += 1
        loop.wake()
        assert (await store.done.get()).error == WINDOW_ERROR
    assert old.timestamp == 7


@asyncio_test()
async def test_room_is_bounded_in_count_and_bytes() -> None:
    loop = make(Store(NoPeers()), Clock(), max_tasks=2, max_bytes=20)
    loop.check_room(20)
    loop.accept(task(1))
    with pytest.raises(IpcError) as full:
        loop.check_room(14)
    assert full.value.code is ErrorCode.BUSY
    loop.accept(task(2))
    with pytest.raises(IpcError):
        loop.check_room(1)
