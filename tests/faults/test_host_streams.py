"""Streams: caps per connection and protocol, receive window, memory of a hostile peer, write time-outs."""

from __future__ import annotations

import dataclasses
import resource
from contextlib import suppress

import pytest
import trio

from kernel_proc.p2p.api import Stream, StreamClosed
from kernel_proc.p2p.limits import KIB
from kernel_proc.p2p.mplex import MESSAGE_INITIATOR, NEW_STREAM
from kernel_proc.p2p.mplex import PROTOCOL as MPLEX
from kernel_proc.p2p.multistream import HEADER, encode_message
from kernel_proc.p2p.varint import encode as varint
from kernel_proc.p2p.yamux import DATA, PING, RST, SYN, WINDOW_UPDATE, header
from kernel_proc.p2p.yamux import PROTOCOL as YAMUX
from tests.support.aio import trio_test
from tests.unit.kernel_proc.p2p.support import ROOMY, RawPeer, echo, host, raw_peer, until

MIB = 1 << 20


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


async def open_raw(peer: RawPeer, stream_id: int, protocol: str) -> None:
    body = encode_message(HEADER) + encode_message(protocol)
    await peer.send(header(DATA, SYN, stream_id, len(body)) + body)


async def never_reads(_stream: Stream) -> None:
    await trio.sleep_forever()


@trio_test()
async def test_three_thousand_streams_of_one_connection_stay_few_tasks() -> None:
    async with host() as (far, _), raw_peer(far.listen_addresses[0]) as peer:
        await peer.receive()  # the host asks who we are: all tasks of the connection run
        before, opened = tasks(), 0
        writer = 1  # runs only while the socket takes less than there is to write
        for first in range(1, 6000, 1500):
            frames = [header(WINDOW_UPDATE, SYN, stream_id, 0) for stream_id in range(first, first + 1500, 2)]
            await peer.send(b"".join(frames[: ROOMY.max_stream_rate // 2]))
            opened += ROOMY.max_stream_rate // 2
            await until(lambda: far.counters()["streams_refused"] >= opened - ROOMY.max_inbound_streams)  # noqa: B023
            assert tasks() <= before + ROOMY.max_inbound_streams + writer
            await trio.sleep(1.1)  # below the cap on the rate
        assert len(far.connections()) == 1
        assert far.counters()["streams_refused"] == opened - ROOMY.max_inbound_streams


@trio_test()
async def test_streams_of_one_protocol_and_peer_are_capped() -> None:
    async with host() as (far, _), host() as (near, _), host() as (other, _):
        far.set_stream_handler("/few", echo, max_per_peer=3)
        peer_id = await near.connect(far.listen_addresses[0])
        streams = [await near.open_stream(peer_id, ["/few"]) for _ in range(3)]
        for stream in streams:
            await stream.write(b"busy")
            assert await stream.read() == b"busy"
        with pytest.raises(StreamClosed, match="reset by peer"):
            await (await near.open_stream(peer_id, ["/few"])).read()
        assert far.counters()["streams_refused"] == 1
        # Another peer has its own share, and an ended stream gives its place back.
        await other.connect(far.listen_addresses[0])
        second = await other.open_stream(peer_id, ["/few"])
        await second.write(b"x")
        assert await second.read() == b"x"
        await streams[0].close()
        assert await streams[0].read() == b""
        again = await near.open_stream(peer_id, ["/few"])
        await again.write(b"y")
        assert await again.read() == b"y"


@trio_test()
async def test_an_older_silent_stream_gives_way_to_a_new_one() -> None:
    async with host() as (far, _), host() as (near, _):
        far.set_stream_handler("/few", echo, max_per_peer=2)
        peer_id = await near.connect(far.listen_addresses[0])
        busy = await near.open_stream(peer_id, ["/few"])
        await busy.write(b"a")
        assert await busy.read() == b"a"
        silent = await near.open_stream(peer_id, ["/few"])
        newest = await near.open_stream(peer_id, ["/few"])
        with pytest.raises(StreamClosed, match="reset by peer"):
            await silent.read()
        for stream in (busy, newest):
            await stream.write(b"b")
            assert await stream.read() == b"b"
        assert (far.counters()["streams_replaced"], far.counters()["streams_refused"]) == (1, 0)


@trio_test()
async def test_streams_that_never_negotiate_are_ended() -> None:
    limits = dataclasses.replace(ROOMY, negotiation_timeout=0.3)
    async with host(limits=limits) as (far, _), raw_peer(far.listen_addresses[0]) as peer:
        await peer.receive()  # the host asks who we are: all tasks of the connection run
        before = tasks()
        await peer.send(*(header(WINDOW_UPDATE, SYN, stream_id, 0) for stream_id in range(1, 101, 2)))
        await until(lambda: far.counters()["negotiations_failed"] == 50)
        await until(lambda: tasks() <= before)
        assert len(far.connections()) == 1


@trio_test(deadline=60)
async def test_sixty_megabytes_into_one_window_end_the_connection() -> None:
    async with host() as (far, events), raw_peer(far.listen_addresses[0]) as peer:
        far.set_stream_handler("/asleep", never_reads)
        await open_raw(peer, 1, "/asleep")
        before = peak_memory()
        body = bytes(60_000)
        with pytest.raises((trio.BrokenResourceError, OSError)):  # noqa: PT012 - which send fails is open
            for _ in range(1000):
                await peer.send(header(DATA, 0, 1, len(body)) + body)
        await events.wait_for("disconnected")
        assert events.reasons == ["yamux: receive window overrun"]
        assert far.counters()["window_overruns"] == 1
        assert peak_memory() - before < 8 * MIB


@trio_test(deadline=60)
async def test_windows_of_many_streams_together_stay_in_the_budget() -> None:
    async with host() as (far, _), raw_peer(far.listen_addresses[0]) as peer:
        far.set_stream_handler("/asleep", never_reads, max_per_peer=1000)
        before = peak_memory()
        body = bytes(60_000)
        for stream_id in range(1, 201, 2):
            await open_raw(peer, stream_id, "/asleep")
            for _ in range(8):
                await peer.send(header(DATA, 0, stream_id, len(body)) + body)
        await until(lambda: far.counters()["buffer_overruns"] > 0)
        (connection,) = far._connections.all()
        assert connection.muxer.buffered <= ROOMY.connection_buffer
        assert peak_memory() - before < 3 * ROOMY.connection_buffer


@trio_test(deadline=60)
async def test_a_mplex_peer_that_floods_a_sleeping_stream_is_held_back() -> None:
    async with host() as (far, _), raw_peer(far.listen_addresses[0], muxer=MPLEX) as peer:
        far.set_stream_handler("/asleep", never_reads)
        hello = encode_message(HEADER) + encode_message("/asleep")
        await peer.send(varint(NEW_STREAM) + varint(1) + b"0")
        await peer.send(varint(MESSAGE_INITIATOR) + varint(len(hello)) + hello)
        before = peak_memory()
        body = bytes(60_000)
        with trio.move_on_after(2):
            for _ in range(1000):
                await peer.send(varint(MESSAGE_INITIATOR) + varint(len(body)) + body)
        (connection,) = far._connections.all()
        assert connection.muxer.buffered <= 2 * ROOMY.stream_window
        assert peak_memory() - before < 16 * MIB


@trio_test()
async def test_a_peer_that_asks_and_never_reads_the_answers_is_cut_off() -> None:
    limits = dataclasses.replace(ROOMY, write_timeout=2.0, idle_frames=10**9)
    async with host(limits=limits) as (far, events), raw_peer(far.listen_addresses[0]) as peer:
        with pytest.raises((trio.BrokenResourceError, OSError)):  # noqa: PT012 - which send fails is open
            while True:
                await peer.send(b"".join(header(PING, SYN, 0, n) for n in range(2000)))
        await events.wait_for("disconnected")
        assert events.reasons[0] in ("peer does not read our responses", "write timeout")


@trio_test()
async def test_a_peer_that_takes_nothing_costs_the_writer_the_write_timeout() -> None:
    limits = dataclasses.replace(ROOMY, write_timeout=0.5)
    failures: list[str] = []

    async def pours(stream: Stream) -> None:
        try:
            while True:
                await stream.write(bytes(60_000))
        except StreamClosed as error:
            failures.append(str(error))
            raise

    async with host(limits=limits) as (far, _), host() as (near, _):
        far.set_stream_handler("/pour", pours)
        far.set_stream_handler("/echo", echo)
        peer_id = await near.connect(far.listen_addresses[0])
        stuck = await near.open_stream(peer_id, ["/pour"])
        await until(lambda: bool(failures))
        assert failures == ["write timeout"]
        assert far.counters()["write_timeouts"] == 1
        # Only the stream was stuck: the connection lives.
        with pytest.raises(StreamClosed, match="reset by peer"):  # noqa: PT012 - which read fails is open
            while True:
                await stuck.read()
        stream = await near.open_stream(peer_id, ["/echo"])
        await stream.write(b"alive")
        assert await stream.read() == b"alive"


@trio_test()
async def test_a_peer_that_talks_but_never_reads_is_cut_off_after_the_write_timeout() -> None:
    limits = dataclasses.replace(ROOMY, write_timeout=0.5, ping_interval=1.0)

    async def pours(stream: Stream) -> None:
        while True:
            await stream.write(bytes(60_000))

    async with host(limits=limits) as (far, events), raw_peer(far.listen_addresses[0]) as peer:
        far.set_stream_handler("/pour", pours)
        await open_raw(peer, 1, "/pour")
        with pytest.raises((trio.BrokenResourceError, OSError)):  # noqa: PT012 - see above
            while True:  # credit without end, and a sign of life each time: no keepalive finds fault with it
                await peer.send(header(WINDOW_UPDATE, 0, 1, MIB))
                await trio.sleep(0.05)
        await events.wait_for("disconnected")
        assert events.reasons == ["write timeout"]
        assert far.counters()["frozen_evicted"] == 1


@trio_test()
async def test_opening_and_resetting_in_a_loop_is_cut_off() -> None:
    async with host() as (far, events), raw_peer(far.listen_addresses[0]) as peer:
        await until(lambda: len(far.connections()) == 1)
        frames = b"".join(
            header(WINDOW_UPDATE, SYN, n, 0) + header(WINDOW_UPDATE, RST, n, 0) for n in range(1, 20_001, 2)
        )
        with pytest.raises((trio.BrokenResourceError, OSError)):  # noqa: PT012 - which send fails is open
            for _ in range(100):
                await peer.send(frames)
        await events.wait_for("disconnected")
        assert events.reasons == ["peer opens streams too fast"]


@pytest.mark.parametrize(
    ("muxer", "frames"),
    [
        (YAMUX, header(DATA, 0, 1, 0) * 500),
        (YAMUX, header(WINDOW_UPDATE, 0, 1, 1) * 500),
        (MPLEX, (varint(MESSAGE_INITIATOR) + varint(0)) * 500),
    ],
)
@trio_test()
async def test_frames_that_carry_nothing_cost_their_sender_the_connection(muxer: str, frames: bytes) -> None:
    """Ten such connections at once; an honest one goes on."""
    async with host() as (far, events), host(listen=[]) as (near, _):
        await near.connect(far.listen_addresses[0])

        async def flood() -> None:
            async with raw_peer(far.listen_addresses[0], muxer=muxer) as peer:
                if muxer == YAMUX:
                    await peer.send(header(WINDOW_UPDATE, SYN, 1, 0))
                with suppress(trio.BrokenResourceError, OSError):
                    while True:
                        await peer.send(frames)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(flood)
        await events.wait_for("disconnected", 10)
        assert set(events.reasons) == {"too many frames without payload"}
        assert far.counters()["idle_frames_refused"] == 10
        assert near.is_connected(far.peer_id)


@trio_test()
async def test_who_was_cut_off_and_returns_at_once_has_no_fresh_allowance() -> None:
    limits = dataclasses.replace(ROOMY, idle_frames=1000, idle_frame_rate=1.0)
    async with host(limits=limits) as (far, events):

        async def flood(frames: int) -> None:
            async with raw_peer(far.listen_addresses[0]) as peer:
                await peer.send(header(WINDOW_UPDATE, SYN, 1, 0), header(DATA, 0, 1, 0) * frames)
                await peer.until_closed()

        await flood(2000)
        await events.wait_for("disconnected")
        await flood(100)  # a tenth of an allowance
        await events.wait_for("disconnected", 2)
        assert far.counters()["idle_frames_refused"] == 2
