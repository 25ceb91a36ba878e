"""Drain-sockets on trio: nothing is lost between sending and reading, and a fault costs one message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import zmq

from kernel_proc.ipc.loop import TrioLoop
from kernel_proc.reactor import ReactorClock
from logos_sockets import open_publisher, open_router
from logos_sockets.drain import DrainSocket
from tests.support.aio import trio_test


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)
    KEPT.clear()


KEPT: list[zmq.Socket[bytes]] = []
"""Sockets that a test does not close itself: the context does, before they are collected."""


def router(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    KEPT.append(open_router(context, max_frame=1 << 20, hwm=64))
    return KEPT[-1]


class Server:
    """A drain-socket and its loop, bound."""

    def __init__(
        self, socket: zmq.Socket[bytes], endpoint: str, on_message: Callable[[list[bytes]], object]
    ) -> None:
        self.loop = TrioLoop("test")
        socket.bind(endpoint)
        self.endpoint = endpoint
        self.on_message = on_message
        self.socket = DrainSocket(self.loop, socket, lambda frames: void(self.on_message(frames)))
        self.send = self.socket.send
        self.run = self.loop.run
        self.close = self.socket.close


def void(_: object) -> None:
    """For lambdas."""


def dealer(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    socket.set(zmq.LINGER, 0)
    socket.connect(endpoint)
    return socket


async def receive(socket: zmq.Socket[bytes]) -> list[bytes]:
    while True:
        try:
            return socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            await trio.sleep(0.001)


@trio_test()
async def test_replies_never_stall_while_others_send(tmp_path: Path) -> None:
    """A second task sends on the socket all the time: each of its calls may eat the reader's edge."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    server = Server(router(context), f"ipc://{tmp_path}/s", lambda frames: server.send(frames))
    endpoint = server.endpoint
    noisy = dealer(context, endpoint)
    asking = dealer(context, endpoint)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            noisy.send(b"hello")
            await receive(noisy)
            identity = b""
            seen: list[bytes] = []

            def remember(frames: list[bytes]) -> None:
                seen.append(frames[0])
                server.send(frames)

            server.on_message = remember
            noisy.send(b"who am I")
            await receive(noisy)
            identity = seen[0]

            async def interfere() -> None:
                while True:
                    server.send([identity, b"push"])
                    try:
                        while True:
                            noisy.recv(zmq.NOBLOCK)
                    except zmq.Again:
                        await trio.lowlevel.checkpoint()

            nursery.start_soon(interfere)
            for number in range(300):
                asking.send(b"%d" % number)
                with trio.fail_after(5):
                    assert await receive(asking) == [b"%d" % number]
            nursery.cancel_scope.cancel()
    finally:
        server.close()
        context.destroy(linger=0)


@trio_test()
async def test_a_failing_handler_costs_one_message(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def handle(frames: list[bytes]) -> None:
        assert server.socket.peer_credentials() is not None
        if frames[1] == b"bad":
            raise ZeroDivisionError
        server.send(frames)

    server = Server(router(context), f"ipc://{tmp_path}/s", handle)
    client = dealer(context, server.endpoint)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            client.send(b"bad")
            client.send_multipart([b"good"] + [b""] * 200)
            reply = await receive(client)
            assert reply[0] == b"good"
            assert len(reply) < 100
            assert server.loop.errors == 1
            assert not server.send([b"unknown", b"x"])
            assert server.socket.counters.unroutable == 1
            nursery.cancel_scope.cancel()
    finally:
        server.close()
        context.destroy(linger=0)


@trio_test(clock=ReactorClock)
async def test_the_clock_reads_unless_the_socket_is_paused(tmp_path: Path) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    in_task: list[bool] = []

    def handle(frames: list[bytes]) -> None:
        in_task.append(trio.lowlevel.in_trio_task())
        server.send(frames)
        if frames[1] == b"pause":
            server.socket.pause()

    server = Server(router(context), f"ipc://{tmp_path}/s", handle)
    client = dealer(context, server.endpoint)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            while False not in in_task:  # a task reads what comes while one is running anyway
                client.send(b"data")
                assert await receive(client) == [b"data"]
            client.send(b"pause")
            assert await receive(client) == [b"pause"]
            handled = len(in_task)
            client.send(b"later")
            await trio.to_thread.run_sync(client.poll, 20)
            assert len(in_task) == handled
            server.socket.resume()
            assert await receive(client) == [b"later"]
            nursery.cancel_scope.cancel()
    finally:
        server.close()
        context.destroy(linger=0)


class _Counting(ReactorClock):
    sleeps = 0

    def deadline_to_sleep_time(self, deadline: float) -> float:
        self.sleeps += 1
        return super().deadline_to_sleep_time(deadline)


@trio_test(clock=_Counting)
async def test_a_socket_that_a_timer_pauses_is_watched_no_longer(tmp_path: Path) -> None:
    """Its descriptor stays readable."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, _Counting)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    server = Server(router(context), f"ipc://{tmp_path}/s", void)
    client = dealer(context, server.endpoint)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            paused = trio.Event()

            def pause() -> None:
                server.socket.pause()
                paused.set()

            server.loop.call_later(0.001, pause)
            await paused.wait()
            client.send(b"data")
            before = clock.sleeps
            await trio.sleep(0.1)
            assert clock.sleeps - before < 20
            nursery.cancel_scope.cancel()
    finally:
        server.close()
        context.destroy(linger=0)


@trio_test()
async def test_a_client_that_does_not_read_is_bounded(tmp_path: Path) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    seen: list[bytes] = []
    server = Server(router(context), f"ipc://{tmp_path}/s", lambda frames: seen.append(frames[0]))
    endpoint = server.endpoint
    client = context.socket(zmq.DEALER)
    client.set(zmq.LINGER, 0)
    client.set(zmq.RCVHWM, 1)
    client.connect(endpoint)
    other = dealer(context, endpoint)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            client.send(b"hello")
            while not seen:
                await trio.sleep(0.001)
            block = bytes(64 << 10)
            sent = 0
            while server.send([seen[0], block]):
                sent += 1
                assert sent < 2000
            assert server.socket.counters.dropped == 1
            other.send(b"hello")
            while len(seen) < 2:
                await trio.sleep(0.001)
            assert server.send([seen[1], b"at once"])
            assert await receive(other) == [b"at once"]
            nursery.cancel_scope.cancel()
    finally:
        server.close()
        context.destroy(linger=0)


@trio_test()
async def test_xpub_reports_each_subscription_and_the_last_unsubscription(tmp_path: Path) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    seen: list[bytes] = []
    server = Server(
        open_publisher(context, 153_600), f"ipc://{tmp_path}/e", lambda frames: seen.append(frames[0])
    )
    endpoint = server.endpoint

    async def wait_for(expected: list[bytes]) -> None:
        while seen != expected:
            await trio.sleep(0.001)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            readers = [context.socket(zmq.SUB) for _ in range(2)]
            for number, reader in enumerate(readers):
                reader.connect(endpoint)
                reader.subscribe(b"p\0")
                await wait_for([b"\x01p\0"] * (number + 1))
            readers[0].close(0)
            server.socket.publish(b"p\0", b"header", b"")
            assert await receive(readers[1]) == [b"p\0", b"header", b""]
            readers[1].close(0)
            await wait_for([b"\x01p\0", b"\x01p\0", b"\x00p\0"])
            nursery.cancel_scope.cancel()
    finally:
        server.close()
        context.destroy(linger=0)
