"""Writing in the caller's task: what an idle connection takes at once, and what is left to the writer."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from kernel_proc.p2p.mplex import Mplex
from kernel_proc.p2p.noise import MAX_PLAINTEXT, SecureChannel
from kernel_proc.p2p.output import SMALL_WRITE
from kernel_proc.p2p.scratch import LARGEST, Scratch
from kernel_proc.p2p.stream import MuxedStream
from kernel_proc.p2p.yamux import DATA, HEADER_SIZE, INITIAL_WINDOW, Yamux, header
from tests.support.aio import trio_test
from tests.unit.kernel_proc.p2p.support import ROOMY, channels, muxed_pair

MAX_BODY = MAX_PLAINTEXT - HEADER_SIZE


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

    def skip_opening(self) -> None:
        """Forget the frame that opens the stream, where no writer runs."""
        self.muxer._queue.clear()
        self.muxer._queued = 0


@asynccontextmanager
async def direct(scratch: Scratch | None = None) -> AsyncIterator[Direct]:
    left, right = (trio.SocketStream(end) for end in trio.socket.socketpair())
    async with left, right:
        yield Direct(*channels((left, right), scratch), (left, right))


@trio_test()
async def test_an_idle_connection_takes_a_frame_without_its_writer_task() -> None:
    async with direct() as end:
        end.skip_opening()
        assert end.stream.write_now(b"hello")
        frame = await end.receive(HEADER_SIZE + 5)
        assert frame[HEADER_SIZE:] == b"hello"
        assert end.stream.send_window == INITIAL_WINDOW - 5
        assert not end.muxer._queued


@trio_test()
@pytest.mark.parametrize("size", [1, SMALL_WRITE, SMALL_WRITE + 1])
async def test_small_and_large_frames_are_alike(size: int) -> None:
    async with direct() as end:
        end.skip_opening()
        for number in range(3):  # each has a nonce of its own
            end.muxer._direct_at = float("-inf")
            body = os.urandom(size)
            assert end.stream.write_now(body)
            frame = await end.receive(HEADER_SIZE + size)
            assert frame == header(DATA, 0, end.stream.stream_id, size) + body, number
        assert end.near.sent_bytes == end.far.received_bytes


@trio_test()
async def test_a_burst_is_written_directly_once() -> None:
    async with direct() as end, trio.open_nursery() as nursery:
        nursery.start_soon(end.muxer.run, lambda _stream: None)
        await end.settle()
        # On a busy machine two calls may be further apart than the pause: set the time of the last one.
        assert end.stream.write_now(b"one")
        end.muxer._direct_at = float("inf")
        assert not end.stream.write_now(b"two")
        end.muxer._direct_at = float("-inf")
        assert end.stream.write_now(b"three")
        nursery.cancel_scope.cancel()


@trio_test()
async def test_a_large_message_needs_no_pause_and_is_cut_into_frames() -> None:
    data = os.urandom(MAX_BODY + 40_000)
    async with direct() as end:
        end.skip_opening()
        end.muxer._direct_at = float("inf")
        assert end.stream.write_now(data)
        got = await end.receive(len(data) + 2 * HEADER_SIZE)
        assert got[HEADER_SIZE:][:MAX_BODY] + got[MAX_BODY + 2 * HEADER_SIZE :] == data
        assert end.stream.send_window == INITIAL_WINDOW - len(data)


@trio_test()
async def test_connections_of_a_host_share_the_copy_of_a_message_but_not_its_headers() -> None:
    scratch = Scratch()
    message = os.urandom(MAX_BODY + 1)
    async with direct(scratch) as one, direct(scratch) as other:
        other.muxer.open_stream()
        other.stream = other.muxer.open_stream()
        for end in (one, other):
            end.skip_opening()
            assert end.stream.write_now(message)
        for end in (one, other):
            frames = await end.receive(len(message) + 2 * HEADER_SIZE)
            assert frames[:HEADER_SIZE] == header(DATA, 0, end.stream.stream_id, MAX_BODY)
            assert frames[HEADER_SIZE:][:MAX_BODY] == message[:MAX_BODY]
            assert frames[MAX_BODY + HEADER_SIZE :][:HEADER_SIZE] == header(DATA, 0, end.stream.stream_id, 1)
            assert frames[-1:] == message[-1:]
        again = os.urandom(len(message))  # another one of the same size is not taken for it
        assert one.stream.write_now(again)
        assert (await one.receive(len(again) + 2 * HEADER_SIZE))[HEADER_SIZE:][:MAX_BODY] == again[:MAX_BODY]


@trio_test()
async def test_what_the_credit_allows_is_written_directly_and_the_rest_with_the_next_credit() -> None:
    scratch = Scratch()
    message = os.urandom(MAX_BODY + 40_000)
    grants = (1_000, MAX_BODY - 1_000, 5_000, 35_000)  # within a body, to its end, and again
    async with direct(scratch) as one, direct(scratch) as other, trio.open_nursery() as nursery:
        one.skip_opening()
        other.skip_opening()
        one.stream.send_window = 0
        nursery.start_soon(one.stream.write, message)
        await one.settle()
        got = b""
        for credit in grants:
            one.stream.send_window += credit
            one.stream.wake_writer()
            await one.settle()
            assert not one.muxer._queue
            assert one.stream.send_window == 0
            frame = await one.receive(HEADER_SIZE + credit)
            assert frame[:HEADER_SIZE] == header(DATA, 0, one.stream.stream_id, credit)
            got += frame[HEADER_SIZE:]
            # The headers within bodies leave the copy that all connections share as it was.
            other.stream.send_window = len(message)
            assert other.stream.write_now(message)
            frames = await other.receive(len(message) + 2 * HEADER_SIZE)
            assert frames[HEADER_SIZE:][:MAX_BODY] == message[:MAX_BODY]
            assert frames[MAX_BODY + 2 * HEADER_SIZE :] == message[MAX_BODY:]
        assert got == message


@trio_test()
async def test_a_write_needs_no_writer_task_while_the_connection_is_idle() -> None:
    async with direct() as end:
        end.skip_opening()
        for text in (b"one", b"two"):
            await end.stream.write(text)
            assert (await end.receive(HEADER_SIZE + 3))[HEADER_SIZE:] == text


@pytest.mark.parametrize("kind", [Yamux, Mplex])
@trio_test()
async def test_messages_of_any_size_arrive_whole_and_in_order(kind: type[Yamux] | type[Mplex]) -> None:
    messages = [os.urandom(size) for size in (1, 1000, MAX_BODY - 1, MAX_BODY + 1, LARGEST, LARGEST + 1, 1)]
    left, right = (trio.SocketStream(end) for end in trio.socket.socketpair())
    async with left, right, muxed_pair(kind, streams=(left, right)) as pair:
        near = pair.left.open_stream()
        far = await pair.accepted.receive()

        async def send() -> None:
            for message in messages:
                if not near.write_now(message):
                    await near.write(message)

        pair.nursery.start_soon(send)
        assert await far.read_exactly(sum(map(len, messages))) == b"".join(messages)


@trio_test()
async def test_an_idle_connection_has_no_task_for_writing() -> None:
    async with direct() as end, trio.open_nursery() as nursery:
        nursery.start_soon(end.muxer.run, lambda _stream: None)
        await end.receive(HEADER_SIZE)  # the frame that opens the stream was written by one
        await end.settle()
        assert end.muxer._nursery is not None
        assert not end.muxer._nursery.child_tasks
        nursery.cancel_scope.cancel()


@trio_test()
async def test_nothing_is_written_before_what_is_queued_or_beyond_the_credit() -> None:
    async with direct() as end:
        assert not end.stream.write_now(b"early")  # the frame that opens the stream waits
        end.skip_opening()
        end.stream.send_window = 3
        assert not end.stream.write_now(b"four")
        assert not end.stream.write_now(b"")
        end.stream.send_window = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.stream.write, b"slow")
            await end.settle()
            end.stream.send_window = 4
            assert not end.stream.write_now(b"four")  # another task is in the middle of a write
            nursery.cancel_scope.cancel()
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
            assert end.muxer._unsent
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


@trio_test()
async def test_direct_writes_give_other_tasks_a_turn_after_several() -> None:
    async with direct() as end, trio.open_nursery() as nursery:
        end.skip_opening()
        turn = trio.Event()

        async def other() -> None:
            turn.set()

        nursery.start_soon(other)
        writes = 0
        while not turn.is_set():
            await end.stream.write(b"small")
            writes += 1
        assert writes in (16, 32)  # tasks that are ready at once run in any order


@trio_test()
async def test_a_cancelled_task_stops_at_a_direct_write() -> None:
    async with direct() as end:
        end.skip_opening()
        with trio.CancelScope() as scope:
            scope.cancel()
            await end.stream.write(b"small")
        assert scope.cancelled_caught
