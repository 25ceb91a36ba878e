"""Windows: what libzmq may hold for a peer that does not read."""

from __future__ import annotations

import asyncio
import socket

import zmq

from logos_sockets import open_dealer, open_router
from logos_sockets.drain import DrainSocket
from logos_sockets.window import WINDOW, Windows, is_flowing
from tests.unit.logos_client.support import both_loops, short_directory, until

PAYLOAD = bytes(100_000)


def test_a_window_opens_again_when_the_system_takes_more() -> None:
    flowing = False
    now = 0.0
    windows = Windows(lambda descriptor: flowing and descriptor == 7, lambda: now)
    assert windows.take(b"unknown", 1 << 30)
    windows.watch(b"a", 7, window=100)
    assert windows.take(b"a", 60)
    assert windows.take(b"a", 60)  # one message may overdraw
    assert not windows.take(b"a", 1)
    assert not windows.reopen(b"a")
    flowing = True
    assert not windows.reopen(b"a")  # libzmq's thread has had no time yet
    now = 0.01
    assert windows.reopen(b"a")
    assert windows.take(b"a", 100)
    windows.forget(b"a")
    assert windows.take(b"a", 1 << 30)
    windows.watch(b"a", 8, window=1)
    assert windows.take(b"a", 1)
    assert not windows.take(b"a", 1)


def test_the_system_says_whether_a_connection_flows() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        assert is_flowing(one.fileno())
        try:
            while True:
                one.send(bytes(65536))
        except BlockingIOError:
            pass
        assert not is_flowing(one.fileno())
        other.recv(1 << 24)
        while not is_flowing(one.fileno()):
            other.recv(1 << 24)
        closed = one.fileno()
    assert is_flowing(closed)  # the next send says so


@both_loops()
async def test_a_peer_that_does_not_read_gets_no_more_than_a_window() -> None:
    with short_directory() as directory:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        writable: list[bytes] = []

        def hello(frames: list[bytes]) -> None:
            descriptors.append(server.peer_descriptor())
            server.windows.watch(frames[0], descriptors[0])
            peers.append(frames[0])

        descriptors: list[int] = []
        peers: list[bytes] = []
        router = open_router(context, hwm=10_000, linger_ms=0)
        router.bind(f"ipc://{directory}/s")
        server = DrainSocket(asyncio.get_running_loop(), router, hello, on_writable=writable.append)
        # With a high-water mark of 1 libzmq's side of the reader stops taking from the system.
        reader = open_dealer(context, f"ipc://{directory}/s", hwm=1)
        reader.send(b"hello")
        try:
            await until(lambda: bool(peers))
            sent = 0
            # The window may have opened again before libzmq's thread had filled the system's buffers, but
            # not after that.
            for _ in range(2):
                while server.send_soon([peers[0], b"LD1", b"header", PAYLOAD]):
                    sent += 1
                    assert sent < 1000
                await until(lambda: not is_flowing(descriptors[0]))
            assert not server.send_soon([peers[0], b"LD1", b"header", PAYLOAD])
            assert sent * len(PAYLOAD) < 3 * WINDOW
            assert server.backlog_bytes == 0
            writable.clear()
            got = 0
            while not writable:
                while reader.poll(0):
                    reader.recv_multipart()
                    got += 1
                await asyncio.sleep(0.001)
            assert got
            assert server.send_soon([peers[0], b"LD1", b"header", PAYLOAD])
        finally:
            server.close()
            context.destroy(linger=0)
