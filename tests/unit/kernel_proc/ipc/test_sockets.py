"""Owned sockets: nothing is lost between sending and reading, bad endpoints and gone clients are told."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import zmq

from kernel_proc.ipc.sockets import (
    OwnedSocket,
    hwm_for,
    make_router,
    make_xpub,
    peer_uid,
)
from logos_process.endpoints import bind
from logos_process.exits import StartError
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
    KEPT.append(make_router(context, max_frame=1 << 20, max_waiting=64))
    return KEPT[-1]


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


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://0.0.0.0:*", "tcp://*:*", "tcp://192.0.2.1:5", "tcp://example.org:5", "inproc://x", "nothing", ""],
)
def test_only_private_endpoints_can_be_bound(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
    with pytest.raises(StartError):
        bind(router(context), endpoint)


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:*", "tcp://[::1]:*"])
def test_tcp_on_loopback_tells_its_port(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
    socket = router(context)
    socket.set(zmq.IPV6, 1)
    bound = bind(socket, endpoint)
    assert bound.rpartition(":")[2].isdigit()


def test_ipc_sockets_are_private_from_the_first_moment(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    bind(router(context), f"ipc://{tmp_path}/own")
    bind(router(context), f"ipc://{tmp_path}/group", group=True)
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE((tmp_path / "group").stat().st_mode) & 0o007 == 0
    assert stat.S_IMODE((tmp_path / "group").stat().st_mode) & 0o020


def test_a_path_that_is_too_long_names_the_option(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    with pytest.raises(StartError, match="ipc-dir"):
        bind(router(context), f"ipc://{tmp_path}/" + "x" * 100)


def test_hwm_is_a_byte_budget() -> None:
    assert hwm_for(150 * 1024) * 150 * 1024 <= 32 << 20
    assert hwm_for(1 << 30) >= 16


def test_peer_address_gives_the_uid() -> None:
    assert peer_uid("localhost:1000:100:4242") == 1000
    assert peer_uid("127.0.0.1") is None
    assert peer_uid(None) is None


@trio_test()
async def test_replies_never_stall_while_others_send(tmp_path: Path) -> None:
    """A second task sends on the socket all the time: each of its calls may eat the reader's edge."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    server = OwnedSocket(router(context), "test", lambda _, frames: echo(frames))

    def echo(frames: list[bytes]) -> None:
        server.send(frames)

    endpoint = server.bind(f"ipc://{tmp_path}/s")
    noisy = dealer(context, endpoint)
    asking = dealer(context, endpoint)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            noisy.send(b"hello")
            await receive(noisy)
            identity = b""
            seen: list[bytes] = []

            def remember(_: str | None, frames: list[bytes]) -> None:
                seen.append(frames[0])
                server.send(frames)

            server._on_message = remember
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

    def handle(peer: str | None, frames: list[bytes]) -> None:
        assert peer_uid(peer) is not None
        if frames[1] == b"bad":
            raise ZeroDivisionError
        server.send(frames)

    server = OwnedSocket(router(context), "test", handle, want_peer=True)
    client = dealer(context, server.bind(f"ipc://{tmp_path}/s"))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            client.send(b"bad")
            client.send_multipart([b"good"] + [b""] * 200)
            reply = await receive(client)
            assert reply[0] == b"good"
            assert len(reply) < 100
            assert server.handler_errors == 1
            assert not server.send([b"nobody", b"x"])
            assert server.dropped_gone == 1
            nursery.cancel_scope.cancel()
    finally:
        server.close()
        context.destroy(linger=0)
    assert not (tmp_path / "s").exists()


@trio_test()
async def test_a_client_that_does_not_read_is_bounded(tmp_path: Path) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    seen: list[bytes] = []
    server = OwnedSocket(router(context), "test", lambda _, frames: seen.append(frames[0]))
    endpoint = server.bind(f"ipc://{tmp_path}/s")
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
            assert server.dropped_slow == 1
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
async def test_xpub_tells_each_subscription_and_the_last_unsubscription(tmp_path: Path) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    seen: list[bytes] = []
    server = OwnedSocket(make_xpub(context, 153_600), "events", lambda _, frames: seen.append(frames[0]))
    endpoint = server.bind(f"ipc://{tmp_path}/e")

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
            server.send3(b"p\0", b"header", b"")
            assert await receive(readers[1]) == [b"p\0", b"header", b""]
            readers[1].close(0)
            await wait_for([b"\x01p\0", b"\x01p\0", b"\x00p\0"])
            nursery.cancel_scope.cancel()
    finally:
        server.close()
        context.destroy(linger=0)
