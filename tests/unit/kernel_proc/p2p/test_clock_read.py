"""Connections that trio's clock reads: the outcome is the same as when the reader's task reads them."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from kernel_proc.p2p.stream import MuxedStream
from kernel_proc.p2p.yamux import ACK, DATA, PING, SYN, WINDOW_UPDATE, Yamux, header
from kernel_proc.reactor import ReactorClock
from tests.support.aio import trio_test
from tests.unit.kernel_proc.p2p.support import ROOMY, channels

_OPEN = header(WINDOW_UPDATE, SYN, 1, 0)
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class Reading:
    """A connection over TCP that reads, and the other end of its socket."""

    def __init__(self, far: trio.SocketStream, peer: trio.SocketStream) -> None:
        self.peer, self.far = peer.socket, far
        self.near, channel = channels((peer, far))
        self.counts: list[str] = []
        self.muxer = Yamux(channel, outbound=False, limits=ROOMY, count=self.counts.append)
        self.fault: Exception | None = None
        self.opened: list[MuxedStream] = []
        self.taken = b""
        self.in_task: list[bool] = []
        self.news = trio.Event()

    def accept(self, stream: MuxedStream) -> None:
        self.in_task.append(trio.lowlevel.in_trio_task())
        if self.fault is not None:
            raise self.fault
        self.opened.append(stream)
        self.news.set()

    def take(self, buffer: bytes, start: int, stop: int) -> bool:
        self.in_task.append(trio.lowlevel.in_trio_task())
        self.taken += buffer[start:stop]
        self.news.set()
        return True

    def write(self, *frames: bytes) -> None:
        """Write in the caller's task, and forget what was new before."""
        self.news = trio.Event()
        self.near.send_some(frames)


@asynccontextmanager
async def reading() -> AsyncIterator[Reading]:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        peer = await trio.open_tcp_stream(*listener.socket.getsockname())
        far = await listener.accept()
    async with peer, far:
        yield Reading(far, peer)


@trio_test(clock=ReactorClock)
async def test_no_task_runs_for_what_arrives() -> None:
    async with reading() as it, trio.open_nursery() as nursery:
        nursery.start_soon(it.muxer.run, it.accept)
        it.write(_OPEN)
        await it.news.wait()
        nursery.start_soon(it.opened[0].consume, it.take)
        await trio.lowlevel.checkpoint()
        for data in (b"some", b"more"):
            it.write(header(DATA, 0, 1, 4), data)
            await it.news.wait()
        assert it.taken == b"somemore"
        assert it.in_task == [False, False, False]
        while it.near.receive_now():
            pass
        it.write(header(PING, SYN, 0, 7))
        assert await it.near.receive() == [header(PING, ACK, 0, 7)]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("garbage", "yamux: unknown version"),
        ("end", "closed by peer"),
        ("reset", "connection lost"),
    ],
)
@trio_test(clock=ReactorClock)
async def test_a_connection_ends_for_the_same_reasons(how: str, reason: str) -> None:
    async with reading() as it, trio.open_nursery() as nursery:
        nursery.start_soon(it.muxer.run, it.accept)
        it.write(_OPEN)
        await it.news.wait()
        if how == "garbage":
            it.write(b"\xff" * 12)
        elif how == "end":
            it.peer.shutdown(socket.SHUT_WR)
        else:
            it.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            it.peer.close()
    assert it.muxer.ended == reason
    assert it.opened[0].abort_reason == f"connection closed: {reason}"
    assert it.counts == (["protocol_violations"] if how == "garbage" else [])


@trio_test(clock=ReactorClock)
async def test_a_transport_that_was_closed_before_is_a_lost_connection() -> None:
    async with reading() as it:
        await it.far.aclose()
        assert await it.muxer.run(it.accept) == "connection lost"


@trio_test(clock=ReactorClock)
async def test_our_own_fault_is_raised_by_the_connection() -> None:
    async with reading() as it:
        it.fault = ZeroDivisionError("ours")
        it.write(_OPEN)
        with pytest.raises(ZeroDivisionError):
            await it.muxer.run(it.accept)
    assert it.muxer.ended == "internal error: ZeroDivisionError('ours')"
    assert it.in_task == [False]
