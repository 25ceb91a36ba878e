"""Writing in the caller's task: what an idle connection takes at once, and what is left to the writer."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from kernel_proc.p2p.muxer import DIRECT_PAUSE
from kernel_proc.p2p.noise import SecureChannel
from kernel_proc.p2p.stream import MuxedStream
from kernel_proc.p2p.yamux import HEADER_SIZE, INITIAL_WINDOW, Yamux
from tests.support.aio import trio_test
from tests.unit.kernel_proc.p2p.support import ROOMY, channels


class Direct:
    """A muxer with one open stream on a real socket, whose writer task has nothing to do."""

    def __init__(
        self, near: SecureChannel, far: SecureChannel, sockets: tuple[trio.SocketStream, ...]
    ) -> None:
        self.near, self.far, self.sockets = near, far, sockets
        self.muxer = Yamux(near, outbound=True, limits=ROOMY, count=lambda _name: None)
        self.stream: MuxedStream = self.muxer.open_stream()

    async def settle(self) -> None:
        """Let the writer send what is queued."""
        await trio.testing.wait_all_tasks_blocked()

    async def receive(self, count: int) -> bytes:
        """The next `count` bytes of plaintext at the other end."""
        got = b""
        while len(got) < count:
            pieces = await self.far.receive()
            assert pieces
            got += b"".join(pieces)
        return got


@asynccontextmanager
async def direct() -> AsyncIterator[Direct]:
    left, right = (trio.SocketStream(end) for end in trio.socket.socketpair())
    async with left, right:
        yield Direct(*channels((left, right)), (left, right))


@trio_test()
async def test_an_idle_connection_takes_a_frame_without_its_writer_task() -> None:
    async with direct() as end:
        end.muxer._queue.clear()  # the frame that opens the stream; no writer runs here
        end.muxer._queued = 0
        assert end.stream.write_now(b"hello")
        frame = await end.receive(HEADER_SIZE + 5)
        assert frame[HEADER_SIZE:] == b"hello"
        assert end.stream.send_window == INITIAL_WINDOW - 5
        assert not end.muxer._queued


@trio_test()
async def test_a_burst_is_written_directly_once() -> None:
    async with direct() as end, trio.open_nursery() as nursery:
        nursery.start_soon(end.muxer.run, lambda _stream: None)
        await end.settle()
        # On a busy machine two calls may be further apart than the pause: set its clock instead.
        assert end.stream.write_now(b"one")
        end.muxer._direct_at = trio.current_time() + DIRECT_PAUSE
        assert not end.stream.write_now(b"two")
        end.muxer._direct_at = float("-inf")
        assert end.stream.write_now(b"three")
        nursery.cancel_scope.cancel()


@trio_test()
async def test_nothing_is_written_before_what_is_queued_or_beyond_the_credit() -> None:
    async with direct() as end:
        assert not end.stream.write_now(b"early")  # the frame that opens the stream waits
        end.muxer._queue.clear()
        end.muxer._queued = 0
        end.stream.send_window = 3
        assert not end.stream.write_now(b"four")
        assert not end.stream.write_now(b"")
        end.stream.send_window = 4
        await end.stream._write_lock.acquire()
        assert not end.stream.write_now(b"four")  # another task is in the middle of a write
        end.stream._write_lock.release()
        assert end.stream.write_now(b"four")
        end.muxer._direct_at = float("-inf")
        end.muxer.end("over")
        assert not end.stream.write_now(b"")


@trio_test()
async def test_the_writer_task_sends_what_the_socket_did_not_take_before_all_else() -> None:
    first, second = os.urandom(60_000), os.urandom(40_000)
    async with direct() as end:
        end.sockets[0].setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 4096)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.muxer.run, lambda _stream: None)
            await end.settle()
            await end.receive(HEADER_SIZE)
            assert end.stream.write_now(first)
            assert end.muxer._unsent is not None
            assert not end.stream.write_now(second)
            nursery.start_soon(end.stream.write, second)
            got = await end.receive(2 * HEADER_SIZE + len(first) + len(second))
            assert got[HEADER_SIZE:][: len(first)] == first
            assert got[2 * HEADER_SIZE + len(first) :] == second
            await end.settle()
            assert not end.muxer._queued
            nursery.cancel_scope.cancel()


@trio_test()
async def test_an_error_of_a_direct_write_ends_the_connection_in_the_writer_task() -> None:
    async with direct() as end, trio.open_nursery() as nursery:
        ended: list[str] = []

        async def run() -> None:
            ended.append(await end.muxer.run(lambda _stream: None))

        nursery.start_soon(run)
        await end.settle()
        end.sockets[0].socket.shutdown(trio.socket.SHUT_WR)
        assert end.stream.write_now(b"lost")
        await end.settle()
        assert ended == ["connection lost"]


@trio_test()
async def test_a_transport_with_frames_of_its_own_has_no_direct_writes() -> None:
    near, _far = channels()
    muxer = Yamux(near, outbound=True, limits=ROOMY, count=lambda _name: None)
    stream = muxer.open_stream()
    muxer._queue.clear()
    assert not stream.write_now(b"hello")
