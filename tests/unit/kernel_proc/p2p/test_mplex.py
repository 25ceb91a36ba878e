from __future__ import annotations

import dataclasses
import os

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.p2p import varint
from kernel_proc.p2p._errors import ProtocolViolation
from kernel_proc.p2p.api import StreamClosed
from kernel_proc.p2p.limits import KIB
from kernel_proc.p2p.mplex import (
    CLOSE_INITIATOR,
    DRAIN_TIMEOUT,
    MAX_MESSAGE,
    MESSAGE_INITIATOR,
    NEW_STREAM,
    RESET_INITIATOR,
    RESET_RECEIVER,
    Mplex,
)
from kernel_proc.p2p.stream import MuxedStream
from tests.support.aio import trio_test
from tests.unit.kernel_proc.p2p.support import ROOMY, channels, muxed_pair, until


def frame(stream_id: int, flag: int, body: bytes = b"") -> bytes:
    return varint.encode(stream_id << 3 | flag) + varint.encode(len(body)) + body


class Lone:
    """One mplex session whose peer is the test."""

    def __init__(self, **limits: int) -> None:
        self.near, self.far = channels()
        self.counts: list[str] = []
        self.accepted: list[MuxedStream] = []
        chosen = dataclasses.replace(ROOMY, **limits)
        self.mplex = Mplex(self.near, outbound=True, limits=chosen, count=self.counts.append)
        self.mplex._accept = self.accepted.append


@trio_test()
async def test_a_stream_carries_bytes_both_ways_and_ends_in_good_order() -> None:
    data = os.urandom(1_500_000)
    async with muxed_pair(Mplex) as pair:
        near = pair.left.open_stream()
        far = await pair.accepted.receive()

        async def send() -> None:
            await near.write(data)
            await near.close()

        pair.nursery.start_soon(send)
        got = bytearray()
        while piece := await far.read():
            got += piece
        assert got == data
        await far.write(b"answer")
        await far.close()
        assert await near.read() == b"answer"
        assert await near.read() == b""
        await until(lambda: not list(pair.left.streams) and not list(pair.right.streams))


@trio_test()
async def test_both_sides_may_use_the_same_stream_number() -> None:
    async with muxed_pair(Mplex) as pair:
        opened: list[MuxedStream] = []
        await trio.testing.wait_all_tasks_blocked()
        pair.left._accept = opened.append
        mine, theirs = pair.left.open_stream(), pair.right.open_stream()
        assert mine.stream_id == theirs.stream_id == 0
        await mine.write(b"from left")
        await theirs.write(b"from right")
        assert await (await pair.accepted.receive()).read() == b"from left"
        await until(lambda: bool(opened))
        assert await opened[0].read() == b"from right"


def test_a_full_stream_holds_the_peer_back_until_it_is_read() -> None:
    async def main() -> None:
        async with muxed_pair(Mplex) as pair:
            near = pair.left.open_stream()
            far = await pair.accepted.receive()
            pair.nursery.start_soon(near.write, bytes(8 << 20))
            await trio.testing.wait_all_tasks_blocked()
            assert far.buffered <= ROOMY.stream_window + 256 * KIB
            got = 0
            while got < 8 << 20:
                got += len(await far.read())

    trio.run(main, clock=trio.testing.MockClock())


def test_an_unread_stream_is_reset_and_the_others_continue() -> None:
    async def main() -> None:
        async with muxed_pair(Mplex) as pair:
            unread, other = pair.left.open_stream(), pair.left.open_stream()
            await unread.write(bytes(1 << 20))
            await other.write(b"behind it")
            far_unread = await pair.accepted.receive()
            far_other = await pair.accepted.receive()
            assert await far_other.read() == b"behind it"
            assert trio.current_time() - started == pytest.approx(DRAIN_TIMEOUT)
            assert pair.counts["buffer_overruns"] == 1
            with pytest.raises(StreamClosed):
                await far_unread.read()

    clock = trio.testing.MockClock(autojump_threshold=0.05)
    started = clock.current_time()
    trio.run(main, clock=clock)


@trio_test()
async def test_streams_over_the_cap_are_reset() -> None:
    lone = Lone(max_inbound_streams=2)
    lone.mplex.feed(b"".join(frame(n, NEW_STREAM, b"name") for n in range(3)))
    assert len(lone.accepted) == 2
    assert lone.mplex._queue == [frame(2, RESET_RECEIVER)]
    assert lone.counts == ["streams_refused"]


@trio_test()
async def test_unread_bytes_of_all_streams_are_capped() -> None:
    lone = Lone(connection_buffer=300 * KIB)
    for n in range(4):
        lone.mplex.feed(frame(n, NEW_STREAM) + frame(n, MESSAGE_INITIATOR, bytes(100 * KIB)))
    assert lone.counts == ["buffer_overruns"]
    assert lone.mplex.buffered == 300 * KIB


@trio_test()
async def test_reset_by_the_peer_ends_the_stream() -> None:
    lone = Lone()
    lone.mplex.feed(frame(0, NEW_STREAM) + frame(0, MESSAGE_INITIATOR, b"abc") + frame(0, RESET_INITIATOR))
    with pytest.raises(StreamClosed, match="reset by peer"):
        await lone.accepted[0].read()
    assert lone.mplex.buffered == 0


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 9,
        varint.encode(MESSAGE_INITIATOR) + varint.encode(MAX_MESSAGE + 1),
        frame(0, NEW_STREAM) * 2,
        frame(0, 7),
    ],
)
@trio_test()
async def test_broken_rules_are_violations(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        Lone().mplex.feed(data)


@given(st.integers(1, 40), st.lists(st.binary(max_size=100), min_size=1, max_size=10))
def test_frames_survive_any_cut_of_the_plaintext(step: int, bodies: list[bytes]) -> None:
    async def main() -> None:
        lone = Lone()
        wire = frame(5, NEW_STREAM, b"five") + b"".join(frame(5, MESSAGE_INITIATOR, b) for b in bodies)
        wire += frame(5, CLOSE_INITIATOR)
        for at in range(0, len(wire), step):
            lone.mplex.feed(wire[at : at + step])
        got = b""
        while piece := await lone.accepted[0].read():
            got += piece
        assert got == b"".join(bodies)

    trio.run(main)


@given(st.binary(max_size=400))
def test_any_bytes_are_frames_or_a_violation(data: bytes) -> None:
    async def main() -> None:
        lone = Lone()
        try:
            lone.mplex.feed(data)
        except ProtocolViolation:
            return
        assert lone.mplex.buffered <= len(data)

    trio.run(main)


@pytest.mark.parametrize(
    "nothing",
    [
        frame(0, MESSAGE_INITIATOR),
        frame(0, MESSAGE_INITIATOR, b"x"),
        frame(9, MESSAGE_INITIATOR),
        frame(9, CLOSE_INITIATOR),
        frame(9, RESET_INITIATOR),
    ],
)
@trio_test()
async def test_a_peer_that_sends_frames_with_nothing_in_them_is_cut_off(nothing: bytes) -> None:
    lone = Lone()
    lone.mplex.feed(frame(0, NEW_STREAM))
    lone.mplex.feed(nothing * 900)
    with pytest.raises(ProtocolViolation, match="without payload"):
        lone.mplex.feed(nothing * 2000)
    assert lone.counts == ["idle_frames_refused"]


@trio_test()
async def test_streams_that_come_and_go_are_bounded_by_their_own_rate_only() -> None:
    lone = Lone(idle_frames=10)
    for number in range(500):
        lone.mplex.feed(frame(number, NEW_STREAM) + frame(number, RESET_INITIATOR))
    assert "idle_frames_refused" not in lone.counts
