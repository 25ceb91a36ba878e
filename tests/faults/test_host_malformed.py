"""What one peer sends costs it its stream or its connection; the host serves the others as before."""

from __future__ import annotations

import dataclasses
import os
import random

import pytest
import trio

from kernel_proc.p2p import varint
from kernel_proc.p2p.api import Stream, StreamClosed
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.identify import PROTOCOL as IDENTIFY
from kernel_proc.p2p.identify import PUSH_PROTOCOL
from kernel_proc.p2p.mplex import PROTOCOL as MPLEX
from kernel_proc.p2p.multistream import HEADER, encode_message
from kernel_proc.p2p.ping import PROTOCOL as PING
from kernel_proc.p2p.yamux import DATA, FIN, PROTOCOL, SYN, header
from tests.support.aio import trio_test
from tests.unit.kernel_proc.p2p.support import ROOMY, TCP, WS, echo, host, raw_peer, until


async def still_serves(node: Libp2pHost) -> None:
    """A well-behaved peer connects and is served."""
    async with host(listen=[]) as (near, _):
        stream = await near.open_stream(await near.connect(node.listen_addresses[0]), ["/echo"])
        await stream.write(b"hello")
        assert await stream.read() == b"hello"


@trio_test()
async def test_a_handler_that_raises_costs_its_stream_and_nothing_else() -> None:
    async def broken(stream: Stream) -> None:
        await stream.read()
        raise ValueError("malformed frame")

    async def broken_in_a_nursery(stream: Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broken, stream)

    async with host() as (far, _), host() as (near, near_events):
        far.set_stream_handler("/broken", broken)
        far.set_stream_handler("/nested", broken_in_a_nursery)
        far.set_stream_handler("/echo", echo)
        peer_id = await near.connect(far.listen_addresses[0])
        good = await near.open_stream(peer_id, ["/echo"])
        for n, protocol in enumerate(["/broken", "/nested", "/broken"]):
            stream = await near.open_stream(peer_id, [protocol])
            await stream.write(os.urandom(100))
            with pytest.raises(StreamClosed, match="reset by peer"):
                await stream.read()
            assert far.counters()["handler_errors"] == n + 1
        await good.write(b"untouched")
        assert await good.read() == b"untouched"
        assert far.is_connected(near.peer_id)
        assert "disconnected" not in [what for what, _ in near_events.log]


@trio_test(deadline=60)
async def test_malformed_bytes_on_every_protocol_end_in_a_reset() -> None:
    rng = random.Random(7)
    async with host() as (far, _), host() as (near, _):
        far.set_stream_handler("/echo", echo)
        peer_id = await near.connect(far.listen_addresses[0])
        for protocol in (IDENTIFY, PUSH_PROTOCOL, PING):
            for junk in (b"", b"\xff" * 40, varint.encode(2**31), b"\x05ab", rng.randbytes(5000)):
                stream = await near.open_stream(peer_id, [protocol])
                try:
                    await stream.write(junk)
                    await stream.close()
                    while await stream.read():
                        pass
                except StreamClosed:
                    pass
        assert far.is_connected(near.peer_id)
        await still_serves(far)
        assert far.counters()["handler_errors"] == far.counters()["connection_errors"] == 0


@pytest.mark.parametrize("listen", [TCP, WS])
@trio_test(deadline=60)
async def test_junk_before_the_handshake_ends_that_connection(listen: str) -> None:
    rng = random.Random(3)
    junks = [
        rng.randbytes(2000),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000,
        encode_message(HEADER) + encode_message("/noise") + b"\xff\xff" + rng.randbytes(70_000),
        encode_message(HEADER) + encode_message("/noise") + b"\x00\x00",
        b"\xff\xff\xff\xff\x0f",
    ]
    async with host(listen=[listen, TCP]) as (far, events):
        far.set_stream_handler("/echo", echo)
        port = int(far.listen_addresses[0].split("/")[4])
        for junk in junks:
            async with await trio.open_tcp_stream("127.0.0.1", port) as tcp:
                try:
                    await tcp.send_all(junk)
                    await tcp.send_eof()
                    while await tcp.receive_some():
                        pass
                except (trio.BrokenResourceError, OSError):
                    pass
        await until(lambda: far.counters()["handshake_failed"] == len(junks))
        assert events.log == []
        await still_serves(far)


@trio_test()
async def test_plaintext_is_refused() -> None:
    async with host() as (far, _):
        port = int(far.listen_addresses[0].split("/")[4])
        async with await trio.open_tcp_stream("127.0.0.1", port) as tcp:
            await tcp.send_all(encode_message(HEADER))
            for protocol in ("/plaintext/2.0.0", "/plaintext/1.0.0", "/secio/1.0.0", "/tls/1.0.0"):
                await tcp.send_all(encode_message(protocol))
            expected = encode_message(HEADER) + 4 * encode_message("na")
            got = b""
            while len(got) < len(expected):
                got += await tcp.receive_some()
            assert got == expected


@pytest.mark.parametrize("muxer", [PROTOCOL, MPLEX])
@trio_test(deadline=60)
async def test_junk_inside_the_encrypted_channel_ends_that_connection(muxer: str) -> None:
    async with host() as (far, events):
        far.set_stream_handler("/echo", echo)
        for _ in range(5):
            async with raw_peer(far.listen_addresses[0], muxer=muxer) as peer:
                await peer.send(b"\xff" * 50_000)
                await peer.until_closed()
        await events.wait_for("disconnected", 5)
        assert far.counters()["protocol_violations"] == 5
        await still_serves(far)


@trio_test(deadline=60)
async def test_random_muxer_frames_never_reach_the_host() -> None:
    rng = random.Random(11)
    async with host() as (far, _):
        far.set_stream_handler("/echo", echo)
        for _ in range(30):
            async with raw_peer(far.listen_addresses[0]) as peer:
                frames = b""
                for _ in range(50):
                    body = rng.randbytes(rng.randrange(60))
                    frames += header(rng.randrange(5), rng.randrange(16), rng.randrange(8), len(body)) + body
                try:
                    await peer.send(frames)
                    with trio.move_on_after(0.05):
                        await peer.until_closed()
                except (trio.BrokenResourceError, OSError):
                    pass
        await still_serves(far)
        await until(lambda: len(far.connections()) == 0)
        assert far.counters()["connection_errors"] == far.counters()["handler_errors"] == 0


@trio_test()
async def test_junk_in_place_of_a_negotiation_costs_the_stream() -> None:
    async with host() as (far, _):
        far.set_stream_handler("/echo", echo)
        async with raw_peer(far.listen_addresses[0]) as peer:
            bodies = [b"\xff" * 30, encode_message(HEADER) + 40 * encode_message("/nope"), b"\x03\xff\xff\n"]
            for n, body in enumerate(bodies):
                await peer.send(header(DATA, SYN | FIN, 2 * n + 1, len(body)) + body)
            await until(lambda: far.counters()["negotiations_failed"] == len(bodies))
            assert len(far.connections()) == 1
        await still_serves(far)


@trio_test()
async def test_the_end_in_mid_frame_is_only_an_end() -> None:
    async with host() as (far, events):
        far.set_stream_handler("/echo", echo)
        async with raw_peer(far.listen_addresses[0]) as peer:
            await peer.send(header(DATA, SYN, 1, 1000) + b"not all of it")
            sealed = peer.channel.seal([b"cut"])
            await peer.tcp.send_all(sealed[:7])
        await events.wait_for("disconnected")
        await still_serves(far)
        assert far.counters()["connection_errors"] == 0


@trio_test()
async def test_a_bug_in_the_muxer_costs_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with host() as (far, events), host() as (near, _):
        far.set_stream_handler("/echo", echo)
        await near.connect(far.listen_addresses[0])
        await events.wait_for("identified")
        (connection,) = far._connections.all()

        def bug(_piece: bytes) -> None:
            raise KeyError("a bug of ours")

        monkeypatch.setattr(connection.muxer, "feed", bug)
        (back,) = near._connections.all()
        back.muxer.send_ping()
        await events.wait_for("disconnected")
        assert "a bug of ours" in events.reasons[0]
        assert far.counters()["connection_errors"] == 1
        await still_serves(far)


@trio_test()
async def test_a_bug_in_the_keepalive_costs_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = dataclasses.replace(ROOMY, ping_interval=0.4)
    async with host(limits=limits) as (far, events), host() as (near, _):
        far.set_stream_handler("/echo", echo)
        await near.connect(far.listen_addresses[0])
        await events.wait_for("connected")  # the far side is done a moment after the near one

        def bug(_now: float) -> bool:
            raise KeyError("a bug of ours")

        monkeypatch.setattr(far._connections.all()[0].muxer, "tick", bug)
        await events.wait_for("disconnected")
        assert far.counters()["connection_errors"] == 1
        await still_serves(far)
