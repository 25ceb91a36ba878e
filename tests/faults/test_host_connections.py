"""Connections: many one after another, half-open ones, caps per IP, per peer and in all."""

from __future__ import annotations

import dataclasses

import pytest
import trio
import trio.testing

from kernel_proc.p2p.api import DialError
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey
from tests.support.aio import trio_test
from tests.unit.kernel_proc.p2p.support import KEYS, ROOMY, TCP, WS, host, raw_peer, until


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


@trio_test(deadline=110)
async def test_three_hundred_connections_one_after_another() -> None:
    # py-libp2p goes deaf after 250 over its lifetime and keeps a task of each.
    async with host() as (far, events):
        near = Libp2pHost(key=NodeKey.generate(), limits=ROOMY)
        async with near.run():
            await trio.testing.wait_all_tasks_blocked()
            before = tasks()
            for n in range(300):
                peer_id = await near.connect(far.listen_addresses[0], deadline=5)
                await near.disconnect(peer_id, "next")
                await events.wait_for("disconnected", n + 1)
            await until(lambda: tasks() <= before)
            assert far.counters()["accepted"] == 300
            assert await near.connect(far.listen_addresses[0]) == far.peer_id


@pytest.mark.parametrize("listen", [TCP, WS])
@trio_test()
async def test_half_open_sockets_do_not_lock_others_out(listen: str) -> None:
    limits = dataclasses.replace(ROOMY, max_half_open=20, max_half_open_per_ip=8, handshake_timeout=0.5)
    async with host(listen=[listen, TCP], limits=limits) as (far, _):
        port = int(far.listen_addresses[0].split("/")[4])
        silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(60)]
        await until(lambda: far.counters()["half_open_evicted"] == 52)
        assert far._connections.admission.half_open == 8
        # A newcomer takes the place of the oldest of them.
        async with host(listen=[]) as (near, _):
            await near.connect(far.listen_addresses[1])
        # Those who said nothing are gone after the handshake time-out.
        await until(lambda: far._connections.admission.half_open == 0)
        assert far.counters()["refused_half_open_ip"] == 0
        for tcp in silent:
            await tcp.aclose()


@trio_test()
async def test_silent_sockets_from_many_places_do_not_keep_a_newcomer_out() -> None:
    """More of them than there are half-open places, from sixty addresses, three from each."""
    limits = dataclasses.replace(ROOMY, max_per_ip=5, max_half_open=64, handshake_timeout=60.0)
    async with host(limits=limits) as (far, _):
        port = int(far.listen_addresses[0].split("/")[4])
        silent = [
            await trio.open_tcp_stream("127.0.0.1", port, local_address=f"127.0.1.{1 + n % 60}")
            for n in range(180)
        ]
        await until(lambda: far.counters()["half_open_evicted"] == 116)
        async with host(listen=[]) as (near, _):
            assert await near.connect(far.listen_addresses[0]) == far.peer_id
        assert far._connections.admission.half_open == 63
        for tcp in silent:
            await tcp.aclose()


@trio_test()
async def test_a_handshake_that_trickles_is_timed_out() -> None:
    limits = dataclasses.replace(ROOMY, handshake_timeout=0.5)
    async with host(limits=limits) as (far, _):
        port = int(far.listen_addresses[0].split("/")[4])
        async with await trio.open_tcp_stream("127.0.0.1", port) as tcp:
            with trio.move_on_after(5), pytest.raises(trio.BrokenResourceError):  # noqa: PT012
                for byte in b"\x13/multistream/1.0.0\n\x07/noise\n" + bytes(5000):
                    await tcp.send_all(bytes([byte]))
                    await trio.sleep(0.02)
        assert far.counters()["handshake_failed"] == 1


@trio_test()
async def test_connections_of_one_ip_are_capped() -> None:
    limits = dataclasses.replace(ROOMY, max_per_ip=2)
    async with host(limits=limits) as (far, events), host() as (a, _), host() as (b, _), host() as (c, _):
        for near in (a, b):
            await near.connect(far.listen_addresses[0])
        with pytest.raises(DialError):
            await c.connect(far.listen_addresses[0])
        assert far.counters()["refused_ip"] == 1
        await a.disconnect(far.peer_id, "room for another")
        await events.wait_for("disconnected")
        await c.connect(far.listen_addresses[0])


@trio_test()
async def test_a_dial_keeps_its_place_at_an_address_and_counts_there_once_connected() -> None:
    limits = dataclasses.replace(ROOMY, max_per_ip=1)
    async with host(limits=limits) as (near, _), host() as (far, _), host() as (other, _):
        silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = silent[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_refused, near, f"/ip4/127.0.0.1/tcp/{port}/p2p/{NodeKey.generate().peer_id}")
            tcp = await silent[0].accept()
            with pytest.raises(DialError):
                await other.connect(near.listen_addresses[0])
            await tcp.aclose()
        await silent[0].aclose()
        await near.connect(far.listen_addresses[0])
        with pytest.raises(DialError):
            await other.connect(near.listen_addresses[0])
        assert near.counters()["refused_ip"] == 2
        await near.disconnect(far.peer_id, "room for another")
        await other.connect(near.listen_addresses[0])


async def _refused(dialling: Libp2pHost, address: str) -> None:
    with pytest.raises(DialError):
        await dialling.connect(address)


@trio_test()
async def test_connections_in_all_are_capped_and_dialling_keeps_its_share() -> None:
    limits = dataclasses.replace(ROOMY, max_connections=3, max_inbound=2)
    async with host(limits=limits) as (far, _), host() as (a, _), host() as (b, _), host() as (c, _):
        for near in (a, b):
            await near.connect(far.listen_addresses[0])
        with pytest.raises(DialError):
            await c.connect(far.listen_addresses[0])
        assert far.counters()["refused_total"] == 1
        await far.connect(c.listen_addresses[0])
        assert len(far.connections()) == 3


@trio_test()
async def test_connections_of_one_peer_are_capped() -> None:
    limits = dataclasses.replace(ROOMY, max_per_peer=2)
    async with host(limits=limits) as (far, events):
        async with (
            raw_peer(far.listen_addresses[0], key=KEYS[0]),
            raw_peer(far.listen_addresses[0], key=KEYS[0]),
        ):
            await until(lambda: len(far.connections()) == 2)
            async with raw_peer(far.listen_addresses[0], key=KEYS[0]) as third:
                assert await third.until_closed() == b""
            assert far.counters()["refused_peer"] == 1
        await events.wait_for("disconnected")
        assert [what for what, _ in events.log].count("connected") == 1


@trio_test(deadline=60)
async def test_two_hundred_dials_at_once() -> None:
    limits = dataclasses.replace(ROOMY, max_connections=400, max_inbound=300, max_half_open=300)
    async with host(limits=limits) as (far, _):
        async with trio.open_nursery() as nursery:
            connected: list[str] = []
            hold = trio.Event()

            async def dial() -> None:
                async with raw_peer(far.listen_addresses[0]):
                    connected.append("one")
                    await hold.wait()

            for _ in range(200):
                nursery.start_soon(dial)
            await until(lambda: len(far.connections()) == 200)
            hold.set()
        await until(lambda: not far.connections())
