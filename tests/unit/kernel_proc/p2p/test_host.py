from __future__ import annotations

import dataclasses
import os

import pytest
import trio

from kernel_proc.p2p import upgrade as upgrade_module
from kernel_proc.p2p.api import (
    BadAddress,
    DialError,
    Direction,
    EndCause,
    Host,
    NotConnected,
    PeerConnection,
    ProtocolNotSupported,
    Stream,
    StreamClosed,
)
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.identify import PUSH_PROTOCOL, encode
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.mplex import PROTOCOL as MPLEX
from kernel_proc.p2p.mplex import Mplex
from kernel_proc.p2p.ping import PROTOCOL as PING
from tests.support.aio import trio_test
from tests.unit.kernel_proc.p2p.support import KEYS, ROOMY, TCP, WS, Recorder, echo, host, until


async def exchange(near: Libp2pHost, peer_id: str, data: bytes) -> None:
    stream = await near.open_stream(peer_id, ["/echo"])
    assert (stream.peer_id, stream.protocol) == (peer_id, "/echo")
    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.write, data)
        while len(got) < len(data):
            got += await stream.read()
    assert got == data
    await stream.close()
    assert await stream.read() == b""


def test_the_class_is_what_the_kernel_is_written_against() -> None:
    host: Host = Libp2pHost(key=KEYS[0])
    assert host.peer_id == KEYS[0].peer_id
    assert host.listen_addresses == []


@pytest.mark.parametrize("listen", [TCP, WS])
@pytest.mark.parametrize("muxer", ["yamux", "mplex"])
def test_streams_over_each_transport_and_muxer(
    listen: str, muxer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if muxer == "mplex":
        monkeypatch.setattr(upgrade_module, "MUXERS", {MPLEX: Mplex})

    @trio_test()
    async def main() -> None:
        async with host(listen=[listen]) as (far, _), host(listen=[]) as (near, _):
            far.set_stream_handler("/echo", echo)
            peer_id = await near.connect(far.listen_addresses[0])
            await exchange(near, peer_id, os.urandom(700_000))

    main()


@trio_test()
async def test_tcp_and_websocket_listen_together() -> None:
    async with host(listen=[TCP, WS]) as (far, _):
        assert [address.split("/")[5:6] for address in far.listen_addresses] == [["p2p"], ["ws"]]
        assert all(address.endswith(f"/p2p/{far.peer_id}") for address in far.listen_addresses)
        for address in far.listen_addresses:
            async with host(listen=[]) as (near, _):
                assert await near.connect(address) == far.peer_id
                assert await near.connect(address.partition("/p2p/")[0]) == far.peer_id


def test_connecting_to_one_address_waits_for_no_timer() -> None:
    async def main() -> None:
        async with host() as (far, _), host(listen=[]) as (near, _):
            assert await near.connect(far.listen_addresses[0]) == far.peer_id

    trio.run(main, clock=trio.testing.MockClock())  # at which it is always the same time


@trio_test()
async def test_events_come_in_order_and_reasons_with_them() -> None:
    async with host() as (far, far_events), host() as (near, near_events):
        peer_id = await near.connect(far.listen_addresses[0])
        for events in (far_events, near_events):
            await events.wait_for("identified")
        (connection,) = near.connections()
        assert (connection.direction, connection.ip) == (Direction.OUTBOUND, "127.0.0.1")
        assert connection.address + f"/p2p/{peer_id}" == far.listen_addresses[0]
        assert far.connections()[0].direction is Direction.INBOUND
        await near.disconnect(peer_id, "enough of it")
        assert not near.is_connected(peer_id)
        assert near.identity(peer_id) is None
        await far_events.wait_for("disconnected")
        assert [what for what, _ in near_events.log] == ["connected", "identified", "disconnected"]
        assert [what for what, _ in far_events.log] == ["connected", "identified", "disconnected"]
        assert near_events.reasons == ["enough of it"]
        assert far_events.reasons[0] in ("closed by peer", "connection lost")
        await near.disconnect(peer_id, "not there any more")


@trio_test()
async def test_identify_advertises_exactly_the_mounted_protocols() -> None:
    async with host(agent="agent/7") as (far, _), host() as (near, near_events):
        far.set_stream_handler("/echo", echo)
        far.set_stream_handler("/gone", echo)
        far.remove_stream_handler("/gone")
        peer_id = await near.connect(far.listen_addresses[0])
        await near_events.wait_for("identified")
        identity = near.identity(peer_id)
        assert identity is not None
        assert identity.agent == "agent/7"
        assert set(identity.protocols) == {
            "/ipfs/id/1.0.0",
            "/ipfs/id/push/1.0.0",
            "/ipfs/ping/1.0.0",
            "/echo",
        }
        assert tuple(f"{a}/p2p/{peer_id}" for a in identity.listen_addresses) == tuple(far.listen_addresses)


@trio_test()
async def test_what_a_peer_pushes_later_replaces_what_it_said_first() -> None:
    async with host() as (far, far_events), host() as (near, _):
        peer_id = await near.connect(far.listen_addresses[0])
        await far_events.wait_for("identified")
        stream = await near.open_stream(peer_id, [PUSH_PROTOCOL])
        await stream.write(
            encode(public_key=b"", agent="new", protocols=["/x"], listen_addresses=[], observed_address=None)
        )
        await stream.close()
        await far_events.wait_for("identified", times=2)
        identity = far.identity(near.peer_id)
        assert identity is not None
        assert (identity.agent, identity.protocols) == ("new", ("/x",))


@trio_test()
async def test_ping_is_served() -> None:
    async with host() as (far, _), host() as (near, _):
        stream = await near.open_stream(await near.connect(far.listen_addresses[0]), [PING])
        for n in range(3):
            await stream.write(bytes([n]) * 32)
            assert await stream.read() == bytes([n]) * 32


@trio_test()
async def test_the_first_protocol_the_peer_speaks_wins() -> None:
    async with host() as (far, _), host() as (near, _):
        far.set_stream_handler("/b", echo)
        far.set_stream_handler("/c", echo)
        peer_id = await near.connect(far.listen_addresses[0])
        assert (await near.open_stream(peer_id, ["/a", "/b", "/c"])).protocol == "/b"
        with pytest.raises(ProtocolNotSupported, match="/nope"):
            await near.open_stream(peer_id, ["/nope"])
        with pytest.raises(NotConnected):
            await near.open_stream(KEYS[0].peer_id, ["/b"])


@trio_test()
async def test_dial_errors_say_what_happened() -> None:
    async with host() as (far, _), host() as (near, _):
        port = far.listen_addresses[0].split("/")[4]
        with pytest.raises(DialError, match="peer id"):
            await near.connect(f"/ip4/127.0.0.1/tcp/{port}/p2p/{KEYS[2].peer_id}")
        with pytest.raises(BadAddress, match="this node"):
            await near.connect(near.listen_addresses[0])
        with pytest.raises(DialError, match="this node"):
            await near.connect(near.listen_addresses[0].partition("/p2p")[0])
        with pytest.raises(BadAddress, match="not a multiaddr"):
            await near.connect("localhost:80")
        with pytest.raises(BadAddress, match="port 0"):
            await near.connect("/ip4/127.0.0.1/tcp/0")
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        silent = listener.socket.getsockname()[1]
        with pytest.raises(DialError, match=r"timed out after 0\.2 s"):
            await near.connect(f"/ip4/127.0.0.1/tcp/{silent}", deadline=0.2)
        with pytest.raises(DialError, match=r"timed out after 0\.2 s"):
            await near.connect(f"/ip4/127.0.0.1/tcp/{silent}/ws", deadline=0.2)
        await listener.aclose()
        with pytest.raises(DialError, match=r"refused|failed"):
            await near.connect(f"/ip4/127.0.0.1/tcp/{silent}")
        assert near.connections() == []
    with pytest.raises(DialError, match="not running"):
        await near.connect(far_address(port))


def far_address(port: str) -> str:
    return f"/ip4/127.0.0.1/tcp/{port}"


@trio_test()
async def test_calls_for_one_peer_share_one_dial() -> None:
    async with host() as (far, _), host() as (near, events):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(near.connect, far.listen_addresses[0])
        assert near.counters()["dialled"] == 1
        assert await near.connect(far.listen_addresses[0]) == far.peer_id
        assert near.counters()["dialled"] == 1
        assert [what for what, _ in events.log].count("connected") == 1
        assert near._dialler._dialling == {}


@trio_test()
async def test_both_sides_dialling_at_once_is_one_peer_until_the_last_connection_is_gone() -> None:
    async with host(KEYS[0]) as (one, one_events), host(KEYS[1]) as (two, two_events):
        one.set_stream_handler("/echo", echo)
        two.set_stream_handler("/echo", echo)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one._dialler._dial, _endpoint(two), 5.0)
            nursery.start_soon(two._dialler._dial, _endpoint(one), 5.0)
        await until(lambda: len(one.connections()) == len(two.connections()) == 2)
        first = one._connections.of(two.peer_id)[0]
        first.muxer.end("one of two")
        await first.gone.wait()
        await until(lambda: len(two.connections()) == 1)
        assert one.is_connected(two.peer_id)
        assert two.is_connected(one.peer_id)
        await exchange(one, two.peer_id, b"still there")
        await exchange(two, one.peer_id, b"still there")
        await one.disconnect(two.peer_id, "now really")
        await two_events.wait_for("disconnected")
        for events in (one_events, two_events):
            kinds = [what for what, _ in events.log]
            assert (kinds.count("connected"), kinds.count("disconnected")) == (1, 1)


def _endpoint(node: Libp2pHost):  # type: ignore[no-untyped-def]
    from kernel_proc.p2p.addresses import parse

    return parse(node.listen_addresses[0])


@trio_test()
async def test_a_listener_that_raises_costs_nothing() -> None:
    class Broken:
        def peer_connected(self, connection: PeerConnection) -> None:
            raise RuntimeError("a bug")

        peer_identified = peer_disconnected = peer_connected

    async with host() as (far, far_events), host() as (near, _):
        far._connections._listeners.insert(0, Broken())  # type: ignore[arg-type]
        await near.connect(far.listen_addresses[0])
        await far_events.wait_for("identified")
        assert far.counters()["listener_errors"] == 2


@trio_test()
async def test_stopping_closes_everything_and_the_host_can_run_again() -> None:
    node = Libp2pHost(key=KEYS[0], listen=[TCP, WS], limits=ROOMY)
    own_events = Recorder()
    node.add_listener(own_events)
    async with host() as (near, near_events):
        for round_ in (1, 2):
            async with node.run():
                await near.connect(node.listen_addresses[0])
                await near_events.wait_for("connected", round_)
            await near_events.wait_for("disconnected", round_)
            assert node.listen_addresses == []
            assert node.connections() == []
            assert own_events.causes == [EndCause.HOST_STOPPED] * round_
            assert near_events.causes == [EndCause.OTHER] * round_


@trio_test()
async def test_serve_starts_when_the_listeners_are_bound() -> None:
    async with trio.open_nursery() as nursery:
        node: Libp2pHost = await nursery.start(Libp2pHost(key=KEYS[0], listen=[TCP]).serve)
        assert node.listen_addresses
        nursery.cancel_scope.cancel()


@trio_test()
async def test_a_port_that_is_taken_is_an_oserror() -> None:
    async with host() as (far, _):
        taken = far.listen_addresses[0].partition("/p2p")[0]
        with pytest.raises(OSError, match="in use"):
            async with Libp2pHost(key=KEYS[1], listen=[TCP, taken]).run():
                pass


@trio_test()
async def test_our_own_limit_stops_dialling() -> None:
    limits = dataclasses.replace(ROOMY, max_connections=1, max_inbound=1)
    async with host() as (one, _), host() as (two, _), host(limits=limits) as (near, _):
        await near.connect(one.listen_addresses[0])
        with pytest.raises(DialError, match="limit"):
            await near.connect(two.listen_addresses[0])


@trio_test()
async def test_a_handler_may_disconnect_its_own_peer() -> None:
    async with host() as (far, far_events), host() as (near, near_events):

        async def rude(stream: Stream) -> None:
            await far.disconnect(stream.peer_id, "rude")

        far.set_stream_handler("/rude", rude)
        peer_id = await near.connect(far.listen_addresses[0])
        with pytest.raises(StreamClosed):
            await (await near.open_stream(peer_id, ["/rude"])).read()
        await far_events.wait_for("disconnected")
        assert far_events.reasons == ["rude"]
        await near_events.wait_for("disconnected")


def test_limits_that_make_no_sense_are_refused() -> None:
    for bad in ({"stream_window": 1}, {"max_inbound": 500}, {"write_timeout": 0.0}):
        with pytest.raises(ValueError):
            HostLimits(**bad)


def test_keys_stay_out_of_the_hosts_text() -> None:
    key = NodeKey.generate()
    node = Libp2pHost(key=key)
    assert key.secret_bytes().hex() not in repr(node) + repr(vars(node))
