"""Reading in the connection's task: straight from the socket, and into a consumer without waking its task."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
import trio
import trio.testing

from kernel_proc.p2p.api import StreamClosed
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.mplex import Mplex
from kernel_proc.p2p.noise import MAX_PLAINTEXT, SecureChannel
from kernel_proc.p2p.scratch import READ_SIZE
from kernel_proc.p2p.stream import MuxedStream
from kernel_proc.p2p.yamux import DATA, INITIAL_WINDOW, SYN, WINDOW_UPDATE, Yamux, header
from tests.support.aio import trio_test
from tests.unit.kernel_proc.p2p.support import ROOMY, MuxedPair, channels, muxed_pair, until


class Taker:
    """A consumer that stops after the bytes in `stops`, or raises."""

    def __init__(self, *stops: int, fault: Exception | None = None) -> None:
        self.got = b""
        self.tasks: set[object] = set()
        self._stops = stops
        self._fault = fault

    def __call__(self, buffer: bytes, start: int, stop: int) -> bool:
        if self._fault is not None:
            raise self._fault
        self.tasks.add(trio.lowlevel.current_task())
        self.got += buffer[start:stop]
        return len(self.got) not in self._stops


@asynccontextmanager
async def sockets() -> AsyncIterator[tuple[trio.SocketStream, SecureChannel, SecureChannel]]:
    """The sender's socket, its channel, and the channel that receives."""
    left, right = (trio.SocketStream(end) for end in trio.socket.socketpair())
    async with left, right:
        yield left, *channels((left, right))


async def stream_of(pair: MuxedPair) -> tuple[MuxedStream, MuxedStream]:
    here = pair.left.open_stream()
    await here.write(b"first")
    there = await pair.accepted.receive()
    assert await there.read_exactly(5) == b"first"
    return here, there


class RawPeer(NamedTuple):
    """A sender's socket and channel, and the connection that receives, with the streams opened there."""

    socket: trio.SocketStream
    near: SecureChannel
    muxer: Yamux
    opened: list[MuxedStream]
    nursery: trio.Nursery


@asynccontextmanager
async def raw_peer(limits: HostLimits = ROOMY) -> AsyncIterator[RawPeer]:
    """A sender that writes its frames itself, and has opened a stream."""
    async with sockets() as (socket, near, far), trio.open_nursery() as nursery:
        muxer = Yamux(far, outbound=False, limits=limits, count=lambda _name: None)
        opened: list[MuxedStream] = []
        nursery.start_soon(muxer.run, opened.append)
        await socket.send_all(near.seal([header(WINDOW_UPDATE, SYN, 1, 0)]))
        await until(lambda: bool(opened))
        yield RawPeer(socket, near, muxer, opened, nursery)
        nursery.cancel_scope.cancel()


@trio_test()
async def test_frames_survive_any_cut_between_reads_of_a_socket() -> None:
    async with sockets() as (socket, near, far):
        sent = [bytes([number]) * size for number, size in enumerate((1, 40, 70_000, 3, MAX_PLAINTEXT, 9))]
        wire = near.seal(sent[:3]) + near.seal(sent[3:])
        got = b""
        for start in range(0, len(wire), 997):
            await socket.send_all(wire[start : start + 997])
            got += b"".join(far.receive_now())
        assert got == b"".join(sent)
        assert far.received_bytes == len(wire)
        assert far.receive_now() == []


@trio_test()
async def test_an_empty_socket_is_asked_before_it_is_read_again() -> None:
    async with sockets() as (socket, near, far):
        assert far.receive_more() == []
        await socket.send_all(near.seal([b"more"]))
        assert far.receive_more() == [b"more"]
        assert far.receive_more() == []
        await socket.aclose()
        assert far.receive_more() == []  # the end is found by waiting
        assert await far.receive() == []


@trio_test()
async def test_one_read_takes_what_the_socket_has() -> None:
    async with sockets() as (socket, near, far):
        await socket.send_all(b"".join(near.seal([bytes(1000)]) for _ in range(100)))
        assert len(await far.receive()) == 100


@trio_test()
async def test_a_channel_waits_for_a_whole_frame_and_then_for_the_end() -> None:
    async with sockets() as (socket, near, far), trio.open_nursery() as nursery:
        wire = near.seal([b"hello"])

        async def send() -> None:
            await socket.send_all(wire[:7])
            await trio.testing.wait_all_tasks_blocked()
            await socket.send_all(wire[7:] + near.seal([b"cut off"])[:5])
            await socket.send_eof()

        nursery.start_soon(send)
        assert await far.receive() == [b"hello"]
        assert await far.receive() == []
        assert await far.receive() == []


@trio_test()
async def test_a_channel_that_was_closed_is_not_read() -> None:
    async with sockets() as (_, _, far):
        await far.stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await far.receive()


@pytest.mark.parametrize("kind", [Yamux, Mplex])
@trio_test()
async def test_a_consumer_is_called_in_the_task_that_reads(kind: type[Yamux] | type[Mplex]) -> None:
    async with muxed_pair(kind) as pair, trio.open_nursery() as nursery:
        here, there = await stream_of(pair)
        taker, ended = Taker(), trio.Event()

        async def consume() -> None:
            taker.tasks.add(trio.lowlevel.current_task())
            assert not await there.consume(taker)
            ended.set()

        nursery.start_soon(consume)
        await trio.testing.wait_all_tasks_blocked()
        sent = bytes(range(256)) * 12_000  # many windows: what is consumed is credited
        await here.write(sent)
        await here.close()
        await ended.wait()
        assert taker.got == sent
        assert there.buffered == 0
        assert len(taker.tasks) == 2  # its own, and the reader's


@trio_test()
async def test_what_arrived_before_and_after_a_consumer_is_kept_in_order() -> None:
    async with muxed_pair() as pair:
        here, there = await stream_of(pair)
        await here.write(b"before")
        await until(lambda: there.buffered == 6)
        taker = Taker(6, 12)
        assert await there.consume(taker)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.consume, taker)
            await trio.testing.wait_all_tasks_blocked()
            await here.write(b"inline")
        await here.write(b"after")
        await until(lambda: there.buffered == 5)
        assert await there.read() == b"after"
        assert taker.got == b"beforeinline"


@trio_test()
async def test_what_a_consumer_raises_costs_its_stream_only() -> None:
    async with muxed_pair() as pair:
        here, there = await stream_of(pair)
        other, another = await stream_of(pair)
        with pytest.RaisesGroup(ZeroDivisionError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(there.consume, Taker(fault=ZeroDivisionError()))
                await trio.testing.wait_all_tasks_blocked()
                await here.write(b"x")
        await other.write(b"still there")
        assert await another.read() == b"still there"


@trio_test()
async def test_a_reset_ends_a_consumer() -> None:
    async with muxed_pair() as pair:
        here, there = await stream_of(pair)
        with pytest.RaisesGroup(StreamClosed):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(there.consume, Taker())
                await trio.testing.wait_all_tasks_blocked()
                await here.reset()


@trio_test()
async def test_a_consumer_that_was_cancelled_gets_nothing_more() -> None:
    async with muxed_pair() as pair:
        here, there = await stream_of(pair)
        taker = Taker()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.consume, taker)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await here.write(b"for a read")
        assert await there.read() == b"for a read"
        assert taker.got == b""


@trio_test()
async def test_a_consumer_that_ends_the_connection_gets_nothing_more() -> None:
    async with raw_peer() as (socket, near, muxer, opened, nursery):

        def take(_buffer: bytes, _start: int, _stop: int) -> bool:
            muxer.end("enough")
            return True

        frames = [header(DATA, 0, 1, 1), b"x", header(WINDOW_UPDATE, SYN, 3, 0)]
        nursery.start_soon(socket.send_all, near.seal(frames))
        with pytest.raises(StreamClosed):
            await opened[0].consume(take)
        assert len(opened) == 1
        assert not muxer.open_streams()


@trio_test()
async def test_credit_does_not_wait_while_there_is_more_to_read() -> None:
    """The sender of more than a window would otherwise stand still until the reader has a pause."""
    limits = HostLimits(stream_window=INITIAL_WINDOW, max_per_ip=0, max_half_open_per_ip=0)
    async with raw_peer(limits) as (socket, near, _, opened, nursery):
        assert await near.receive() == [header(WINDOW_UPDATE, 2, 1, 0)]
        seen: list[bytes] = []

        def take(_buffer: bytes, _start: int, _stop: int) -> bool:
            seen.extend(near.receive_now())
            return True

        nursery.start_soon(opened[0].consume, take)
        size = 45_000
        frames = [near.seal([header(DATA, 0, 1, size) + bytes(size)]) for _ in range(4)]
        assert sum(map(len, frames)) <= READ_SIZE
        await trio.testing.wait_all_tasks_blocked()
        await socket.send_all(b"".join(frames))
        await until(lambda: opened[0].taken == 4 * size)
        assert seen == [header(WINDOW_UPDATE, 0, 1, 3 * size)]
        nursery.cancel_scope.cancel()


@trio_test()
async def test_a_peer_that_always_has_more_to_say_lets_other_tasks_run() -> None:
    async with raw_peer() as (socket, near, _, opened, nursery):
        turn, taken = trio.Event(), 0

        async def other() -> None:
            turn.set()

        def say() -> None:
            os.write(socket.socket.fileno(), near.seal([header(DATA, 0, 1, 64) + bytes(64)]))

        def take(_buffer: bytes, _start: int, _stop: int) -> bool:
            nonlocal taken
            taken += 1
            if taken == 1:
                nursery.start_soon(other)
            if taken < 20_000 and not turn.is_set():
                say()
            return True

        nursery.start_soon(opened[0].consume, take)
        await trio.testing.wait_all_tasks_blocked()
        say()
        await turn.wait()
        assert taken < 20_000
        nursery.cancel_scope.cancel()
