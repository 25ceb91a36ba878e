"""What is watched is called while trio would sleep, and what trio itself waits for still wakes it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest
import trio

from kernel_proc.reactor import ReactorClock, watching
from tests.support.aio import trio_test


class Pipe:
    """A pipe whose reading end is watched. `got` has what was read, `by` the tasks that read (None: a
    callback)."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe2(os.O_NONBLOCK)
        self.got = b""
        self.by: list[object] = []
        self.changed = trio.Event()

    def read(self) -> None:
        try:
            self.got += os.read(self.out, 100)
        except BlockingIOError:
            return
        self.by.append(trio.lowlevel.current_task() if trio.lowlevel.in_trio_task() else None)
        self.changed.set()

    def write(self, data: bytes) -> None:
        self.changed = trio.Event()
        os.write(self.into, data)

    async def wait(self) -> None:
        """What every user of `watching` does beside it."""
        while True:
            await trio.lowlevel.wait_readable(self.out)
            self.read()


def void(_: object) -> None:
    """For lambdas."""


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.out)
    os.close(pipe.into)


@trio_test(clock=ReactorClock)
async def test_a_callback_runs_without_a_task(pipe: Pipe) -> None:
    """Without the name of trio's epoll, which is private, a task would run."""
    async with trio.open_nursery() as nursery:
        with watching(pipe.out, pipe.read):
            nursery.start_soon(pipe.wait)
            for data in (b"first", b"second"):
                pipe.write(data)
                await pipe.changed.wait()
            nursery.cancel_scope.cancel()
    assert pipe.got == b"firstsecond"
    assert pipe.by == [None, None]


@trio_test()
async def test_with_another_clock_the_task_reads(pipe: Pipe) -> None:
    async with trio.open_nursery() as nursery:
        with watching(pipe.out, pipe.read):
            nursery.start_soon(pipe.wait)
            pipe.write(b"data")
            await pipe.changed.wait()
            nursery.cancel_scope.cancel()
    assert pipe.by[0] is not None


@trio_test(clock=ReactorClock)
async def test_the_task_reads_while_others_keep_the_loop_busy(pipe: Pipe) -> None:
    async with trio.open_nursery() as nursery:
        with watching(pipe.out, pipe.read):
            nursery.start_soon(pipe.wait)
            pipe.write(b"data")
            while not pipe.got:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert pipe.by[0] is not None


@trio_test(clock=ReactorClock)
async def test_what_a_callback_wakes_cancels_and_starts_runs(pipe: Pipe) -> None:
    started = trio.Event()

    async def start() -> None:
        started.set()

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        def callback() -> None:
            pipe.read()
            scope.deadline = trio.current_time()
            nursery.start_soon(start)

        with watching(pipe.out, callback), scope:
            pipe.write(b"data")
            await trio.sleep_forever()
        assert scope.cancelled_caught
        await started.wait()


@trio_test(clock=ReactorClock)
async def test_deadlines_sockets_threads_and_signals_wake_trio(pipe: Pipe) -> None:
    with watching(pipe.out, pipe.read):
        await trio.sleep(0.001)
        here, there = trio.socket.socketpair()
        with here, there:
            os.write(there.fileno(), b"x")
            assert await here.recv(1) == b"x"
        assert await trio.to_thread.run_sync(threading.get_ident) != threading.get_ident()
        with trio.open_signal_receiver(signal.SIGUSR1) as signals:
            await trio.to_thread.run_sync(os.kill, os.getpid(), signal.SIGUSR1)
            async for number in signals:
                assert number == signal.SIGUSR1
                break
    assert not pipe.by


@trio_test(clock=ReactorClock)
async def test_trio_goes_on_beside_a_descriptor_that_is_always_readable(pipe: Pipe) -> None:
    pipe.write(b"never read")
    here, there = trio.socket.socketpair()
    with here, there:
        with watching(pipe.out, lambda: void(os.write(there.fileno(), b"x"))):
            assert await here.recv(1) == b"x"
        with watching(pipe.out, lambda: None):
            await trio.sleep(0.001)


@trio_test(clock=ReactorClock)
async def test_what_is_watched_no_longer_is_not_called(pipe: Pipe) -> None:
    with watching(pipe.out, pipe.read):
        pass
    pipe.write(b"data")
    await trio.sleep(0.001)
    assert not pipe.by


@trio_test(clock=ReactorClock)
async def test_the_number_of_a_closed_descriptor_belongs_to_the_next_one(pipe: Pipe) -> None:
    other = Pipe()
    number = other.out
    with watching(number, other.read):
        os.close(number)
        os.dup2(pipe.out, number)
        with watching(number, pipe.read):
            clock = trio.lowlevel.current_clock()
            assert isinstance(clock, ReactorClock)
            clock.unwatch(number, other.read)
            pipe.write(b"data")
            await pipe.changed.wait()
    assert pipe.by == [None]
    os.close(number)
    os.close(other.into)


@trio_test(clock=ReactorClock)
async def test_a_descriptor_that_epoll_does_not_take_is_left_to_its_task() -> None:
    called: list[None] = []
    file = os.open(__file__, os.O_RDONLY)  # epoll takes no regular file
    try:
        with watching(file, lambda: called.append(None)):
            await trio.sleep(0)
    finally:
        os.close(file)
    assert called == []
