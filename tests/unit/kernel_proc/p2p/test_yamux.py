from __future__ import annotations

import dataclasses
import os

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.p2p._errors import ProtocolViolation
from kernel_proc.p2p.api import StreamClosed
from kernel_proc.p2p.buffered import ByteStream
from kernel_proc.p2p.limits import KIB
from kernel_proc.p2p.stream import MuxedStream
from kernel_proc.p2p.yamux import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER_SIZE,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    Yamux,
    header,
)
from tests.support.aio import trio_test
from tests.unit.kernel_proc.p2p.support import ROOMY, MuxedPair, channels, muxed_pair, until

SMALL = dataclasses.replace(ROOMY, stream_window=256 * KIB)


def parse(data: bytes) -> list[tuple[int, int, int, int]]:
    """(type, flags, stream, length) of the frames in `data`, bodies skipped."""
    frames, position = [], 0
    while position < len(data):
        kind, flags = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        stream = int.from_bytes(data[position + 4 : position + 8], "big")
        length = int.from_bytes(data[position + 8 : position + 12], "big")
        frames.append((kind, flags, stream, length))
        position += HEADER_SIZE + (length if kind == DATA else 0)
    return frames


class Recorded:
    """A transport that keeps what is sent."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self.receive_some = stream.receive_some
        self.aclose = stream.aclose
        self.data = b""

    async def send_all(self, data: bytes) -> None:
        self.data += data
        await self._stream.send_all(data)


class Lone:
    """One yamux session whose peer is the test: feed it bytes, look at what it queues."""

    def __init__(self, limits: object = SMALL) -> None:
        assert isinstance(limits, type(SMALL))
        self.near, self.far = channels()
        self.counts: list[str] = []
        self.accepted: list[MuxedStream] = []
        self.yamux = Yamux(self.near, outbound=True, limits=limits, count=self.counts.append)
        self.yamux._accept = self.accepted.append

    def queued(self) -> list[tuple[int, int, int, int]]:
        out = b"".join(bytes(part) for part in self.yamux._queue)
        self.yamux._queue.clear()
        self.yamux._queued = 0
        return parse(out)


async def opened(pair: MuxedPair) -> tuple[MuxedStream, MuxedStream]:
    near = pair.left.open_stream()
    return near, await pair.accepted.receive()


@trio_test()
async def test_a_stream_carries_bytes_both_ways_and_ends_in_good_order() -> None:
    async with muxed_pair() as pair:
        near, far = await opened(pair)
        await near.write(b"question")
        await near.close()
        assert await far.read() == b"question"
        assert await far.read() == b""
        await far.write(b"answer")
        await far.close()
        assert await near.read() == b"answer"
        assert await near.read() == b""
        await until(lambda: not list(pair.left.streams) and not list(pair.right.streams))


@trio_test()
async def test_more_than_many_windows_pass() -> None:
    data = os.urandom(3_000_000)
    async with muxed_pair(limits=SMALL) as pair:
        near, far = await opened(pair)

        async def send() -> None:
            await near.write(data)
            await near.close()

        pair.nursery.start_soon(send)
        got = bytearray()
        while piece := await far.read(10_000):
            got += piece
        assert got == data


@trio_test()
async def test_a_read_returns_the_buffered_bytes() -> None:
    async with muxed_pair() as pair:
        near, far = await opened(pair)
        for n in range(50):
            await near.write(b"%02d" % n)
        await until(lambda: far.buffered == 100)
        assert await far.read(70) == b"".join(b"%02d" % n for n in range(35))
        assert await far.read(1) == b"3"
        assert await far.read() == b"5" + b"".join(b"%02d" % n for n in range(36, 50))


@trio_test()
async def test_a_window_update_comes_once_per_half_window() -> None:
    lone = Lone()
    lone.yamux.feed(header(WINDOW_UPDATE, SYN, 2, 0))
    stream = lone.accepted[0]
    assert lone.queued() == [(WINDOW_UPDATE, ACK, 2, 0)]
    updates = []
    for _ in range(250):  # a message of 1 KiB each, read one by one
        lone.yamux.feed(header(DATA, 0, 2, KIB) + bytes(KIB))
        assert len(await stream.read()) == KIB
        updates += lone.queued()
    assert updates == [(WINDOW_UPDATE, 0, 2, 128 * KIB)]


@trio_test()
async def test_a_larger_window_is_granted_as_the_stream_opens() -> None:
    lone = Lone(dataclasses.replace(ROOMY, stream_window=512 * KIB))
    lone.yamux.open_stream()
    lone.yamux.feed(header(WINDOW_UPDATE, SYN, 2, 0))
    assert lone.queued() == [(WINDOW_UPDATE, SYN, 1, 256 * KIB), (WINDOW_UPDATE, ACK, 2, 256 * KIB)]


@trio_test()
async def test_the_receive_window_is_enforced() -> None:
    lone = Lone()
    body = bytes(64 * KIB)
    lone.yamux.feed(header(WINDOW_UPDATE, SYN, 2, 0))
    for _ in range(4):
        lone.yamux.feed(header(DATA, 0, 2, len(body)) + body)
    assert lone.accepted[0].buffered == 256 * KIB
    with pytest.raises(ProtocolViolation, match="window"):
        lone.yamux.feed(header(DATA, 0, 2, 1))
    assert lone.counts == ["window_overruns"]


@trio_test()
async def test_credit_counts_only_bytes_read() -> None:
    lone = Lone()
    lone.yamux.feed(header(DATA, SYN, 2, 256 * KIB) + bytes(256 * KIB))
    await lone.accepted[0].read(128 * KIB)
    lone.yamux.feed(header(DATA, 0, 2, 128 * KIB) + bytes(128 * KIB))
    with pytest.raises(ProtocolViolation, match="window"):
        lone.yamux.feed(header(DATA, 0, 2, 1))


@trio_test()
async def test_unread_bytes_of_all_streams_are_capped() -> None:
    lone = Lone(dataclasses.replace(SMALL, connection_buffer=600 * KIB))
    for stream_id in (2, 4, 6):
        lone.yamux.feed(header(DATA, SYN, stream_id, 256 * KIB) + bytes(256 * KIB))
    assert lone.counts == ["buffer_overruns"]
    assert (WINDOW_UPDATE, RST, 6, 0) in lone.queued()
    assert lone.yamux.buffered == 512 * KIB
    with pytest.raises(StreamClosed):
        await lone.accepted[2].read()


def test_a_blocked_writer_is_woken_by_the_update_it_waits_for() -> None:
    # Under a clock that stands still: a writer that polls would never go on.
    async def main() -> None:
        async with muxed_pair(limits=SMALL) as pair:
            near, far = await opened(pair)
            done = trio.Event()

            async def send() -> None:
                await near.write(bytes(600 * KIB))
                done.set()

            pair.nursery.start_soon(send)
            got = 0
            while got < 600 * KIB:
                got += len(await far.read())
            await done.wait()
            assert trio.current_time() == started

    clock = trio.testing.MockClock()
    started = clock.current_time()
    trio.run(main, clock=clock)


def test_a_writer_without_credit_gives_up_after_the_write_timeout() -> None:
    async def main() -> None:
        async with muxed_pair(limits=SMALL) as pair:
            near, far = await opened(pair)
            with pytest.raises(StreamClosed, match="write timeout"):
                await near.write(bytes(600 * KIB))
            assert trio.current_time() - started == pytest.approx(SMALL.write_timeout)
            assert pair.counts["write_timeouts"] == 1
            with pytest.raises(StreamClosed, match="reset by peer"):  # noqa: PT012 - which read fails is open
                while True:
                    await far.read()

    clock = trio.testing.MockClock(autojump_threshold=0.05)
    started = clock.current_time()
    trio.run(main, clock=clock)


@trio_test()
async def test_header_and_body_leave_in_one_noise_message() -> None:
    async with muxed_pair() as pair:
        near, far = await opened(pair)
        channel = pair.left._channel
        wire = Recorded(channel.stream)
        channel.stream = wire
        await near.write(bytes(2 * 65507))
        while far.buffered < 2 * 65507:
            await trio.sleep(0)
        assert [len(wire.data), wire.data[:2], wire.data[65537:65539]] == [
            2 * 65537,
            b"\xff\xff",
            b"\xff\xff",
        ]


@trio_test()
async def test_streams_over_the_cap_are_reset() -> None:
    lone = Lone(dataclasses.replace(SMALL, max_inbound_streams=3))
    for stream_id in (2, 4, 6, 8):
        lone.yamux.feed(header(WINDOW_UPDATE, SYN, stream_id, 0))
    assert len(lone.accepted) == 3
    assert lone.queued()[-1] == (WINDOW_UPDATE, RST, 8, 0)
    assert lone.counts == ["streams_refused"]
    lone.yamux.feed(header(WINDOW_UPDATE, RST, 2, 0))
    lone.yamux.feed(header(WINDOW_UPDATE, SYN, 10, 0))
    assert len(lone.accepted) == 4


@trio_test()
async def test_opening_and_resetting_in_a_loop_ends_the_connection() -> None:
    lone = Lone(dataclasses.replace(SMALL, max_stream_rate=100))
    frames = [
        header(WINDOW_UPDATE, SYN, 2 * n, 0) + header(WINDOW_UPDATE, RST, 2 * n, 0) for n in range(1, 102)
    ]
    lone.yamux.feed(b"".join(frames[:100]))
    with pytest.raises(ProtocolViolation, match="too fast"):
        lone.yamux.feed(frames[100])


@trio_test()
async def test_our_own_streams_are_capped_too() -> None:
    lone = Lone(dataclasses.replace(SMALL, max_outbound_streams=2))
    lone.yamux.open_stream()
    second = lone.yamux.open_stream()
    with pytest.raises(StreamClosed, match="too many"):
        lone.yamux.open_stream()
    await second.reset()
    lone.yamux.open_stream()


@trio_test()
async def test_a_peer_that_does_not_read_our_answers_is_cut_off() -> None:
    lone = Lone(dataclasses.replace(SMALL, idle_frames=100_000))
    with pytest.raises(ProtocolViolation, match="does not read"):  # noqa: PT012 - which ping is open
        for value in range(10_000):
            lone.yamux.feed(header(PING, SYN, 0, value))
    assert lone.yamux._queued <= SMALL.control_buffer


@trio_test()
async def test_pings_are_answered_with_their_value() -> None:
    lone = Lone()
    lone.yamux.feed(header(PING, SYN, 0, 77) + header(PING, ACK, 0, 5))
    assert lone.queued() == [(PING, ACK, 0, 77)]


@pytest.mark.parametrize(
    "frame",
    [
        b"\x01" + bytes(11),
        header(7, 0, 0, 0),
        header(WINDOW_UPDATE, SYN, 1, 0),
        header(WINDOW_UPDATE, SYN, 0, 0),
        header(WINDOW_UPDATE, SYN, 2, 0) * 2,
        header(DATA, SYN, 2, 256 * KIB + 1),
        header(DATA, 0, 2, 256 * KIB + 1),
        header(WINDOW_UPDATE, SYN, 2, 2**32 - 1),
    ],
)
@trio_test()
async def test_broken_rules_are_violations(frame: bytes) -> None:
    lone = Lone()
    with pytest.raises(ProtocolViolation):
        lone.yamux.feed(frame)


@trio_test()
async def test_late_frames_of_a_stream_that_is_gone_are_skipped() -> None:
    lone = Lone()
    stream = lone.yamux.open_stream()
    await stream.reset()
    lone.yamux.feed(
        header(DATA, 0, 1, 5) + b"later" + header(WINDOW_UPDATE, 0, 1, 9) + header(GO_AWAY, 0, 0, 0)
    )
    lone.yamux.feed(header(PING, SYN, 0, 1))
    assert lone.queued()[-1] == (PING, ACK, 0, 1)


@trio_test()
async def test_bytes_after_the_end_are_skipped() -> None:
    lone = Lone()
    lone.yamux.feed(header(DATA, SYN | FIN, 2, 3) + b"abc" + header(DATA, 0, 2, 3) + b"xyz")
    stream = lone.accepted[0]
    assert await stream.read() == b"abc"
    assert await stream.read() == b""


@given(st.integers(1, 40), st.lists(st.binary(max_size=100), min_size=1, max_size=10))
def test_frames_survive_any_cut_of_the_plaintext(step: int, bodies: list[bytes]) -> None:
    async def main() -> None:
        lone = Lone()
        wire = header(WINDOW_UPDATE, SYN, 2, 0) + b"".join(header(DATA, 0, 2, len(b)) + b for b in bodies)
        for at in range(0, len(wire), step):
            lone.yamux.feed(wire[at : at + step])
        lone.yamux.feed(header(DATA, FIN, 2, 0))
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
            lone.yamux.feed(data)
        except ProtocolViolation:
            return
        assert lone.yamux.buffered <= len(data)

    trio.run(main)


@trio_test()
async def test_the_end_of_the_connection_ends_reads_and_writes() -> None:
    async with muxed_pair() as pair:
        near, far = await opened(pair)
        failures: list[str] = []

        async def read(stream: MuxedStream) -> None:
            with pytest.raises(StreamClosed) as error:
                await stream.read()
            failures.append(str(error.value))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, near)
            nursery.start_soon(read, far)
            await trio.testing.wait_all_tasks_blocked()
            await pair.right._channel.stream.aclose()
        assert len(failures) == 2
        with pytest.raises(StreamClosed):
            await near.write(b"x")
        with pytest.raises(StreamClosed):
            pair.left.open_stream()


@trio_test()
async def test_a_cancelled_writer_leaves_the_connection_whole() -> None:
    async with muxed_pair(limits=SMALL) as pair:
        stuck, _ = await opened(pair)
        with trio.move_on_after(0.05):
            await stuck.write(bytes(600 * KIB))
        near, far = await opened(pair)
        await near.write(b"still fine")
        assert await far.read() == b"still fine"


@trio_test()
async def test_a_half_closed_stream_that_the_peer_never_ends_is_reset() -> None:
    lone = Lone()
    lone.yamux.feed(header(WINDOW_UPDATE, SYN, 2, 0))
    lone.accepted[0].finish()
    now = trio.current_time()
    lone.yamux.tick(now + SMALL.linger_timeout - 1)
    assert list(lone.yamux.streams)
    lone.yamux.tick(now + SMALL.linger_timeout + 1)
    assert not list(lone.yamux.streams)
    assert lone.counts == ["streams_lingered_out"]
    assert lone.queued()[-1] == (WINDOW_UPDATE, RST, 2, 0)


NOTHING = {
    "empty data": header(DATA, 0, 2, 0),
    "data of one byte": header(DATA, 0, 2, 1) + b"x",
    "an update of one byte": header(WINDOW_UPDATE, 0, 2, 1),
    "an empty update": header(WINDOW_UPDATE, 0, 2, 0),
    "data of no stream": header(DATA, 0, 8, 0),
    "the end of no stream": header(WINDOW_UPDATE, FIN, 8, 0),
    "the reset of no stream": header(DATA, RST, 8, 0),
    "a pong": header(PING, ACK, 0, 1),
    "no more streams": header(GO_AWAY, 0, 0, 0),
}


@pytest.mark.parametrize("frame", NOTHING.values(), ids=NOTHING.keys())
@trio_test()
async def test_a_peer_that_sends_frames_with_nothing_in_them_is_cut_off(frame: bytes) -> None:
    lone = Lone()
    lone.yamux.feed(header(WINDOW_UPDATE, SYN, 2, 0))
    lone.yamux.feed(frame * 900)
    with pytest.raises(ProtocolViolation, match="without payload"):
        lone.yamux.feed(frame * 2000)
    assert lone.counts == ["idle_frames_refused"]


@trio_test()
async def test_useful_bytes_pay_for_small_frames() -> None:
    """js implementations write the length of each message as a frame of its own."""
    lone = Lone()
    lone.yamux.feed(header(WINDOW_UPDATE, SYN, 2, 0))
    (stream,) = lone.accepted
    for _ in range(100):
        lone.yamux.feed((header(DATA, 0, 2, 2) + b"xx" + header(DATA, 0, 2, 150) + bytes(150)) * 100)
        assert await stream.read(1 << 20)
        lone.queued()
    assert lone.counts == []


@trio_test()
async def test_the_allowance_comes_back_with_time() -> None:
    lone = Lone(dataclasses.replace(SMALL, idle_frames=10, idle_frame_rate=1e9))
    for _ in range(100):
        lone.yamux.feed(header(PING, ACK, 0, 1))
        await trio.lowlevel.checkpoint()
