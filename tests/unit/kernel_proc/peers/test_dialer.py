"""The dialler of configured peers."""

from __future__ import annotations

from random import Random
from typing import Any, cast

import trio

from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import BadAddress, DialError, Host
from kernel_proc.peers.dialer import StaticDialer
from tests.support.mock_clock import mock_clock_test


class FakeHost:
    """Dials that succeed or fail as the test wants; the addresses are `<peer id>@<anything>`."""

    peer_id = "me"

    def __init__(self) -> None:
        self.dials: list[tuple[float, str]] = []
        self.reachable: set[str] = set()
        self.connected: set[str] = set()

    async def connect(self, address: str, *, deadline: float = 10.0) -> str:
        await trio.lowlevel.checkpoint()
        self.dials.append((trio.current_time(), address))
        peer_id = address.partition("@")[0]
        if peer_id == "bad":
            raise BadAddress("no address")
        if peer_id not in self.reachable:
            raise DialError("refused")
        self.connected.add(peer_id)
        return peer_id

    def is_connected(self, peer_id: str) -> bool:
        return peer_id in self.connected


def dialer(host: FakeHost, registry: Registry, *addresses: str, **more: Any) -> StaticDialer:
    return StaticDialer(cast("Host", host), addresses, registry, Random(1), **more)


@mock_clock_test
async def test_it_goes_on_until_the_peer_is_there_and_again_when_it_is_gone() -> None:
    host, registry = FakeHost(), Registry("")
    found: list[tuple[str, str]] = []
    keeper = dialer(host, registry, "a@1", "a@1", connected=lambda *what: found.append(what))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await trio.sleep(10)
        failed = len(host.dials)
        assert 3 <= failed <= 5
        host.reachable.add("a")
        await trio.sleep(60)
        assert found == [("a", "a@1")]
        before = len(host.dials)
        await trio.sleep(600)
        assert len(host.dials) == before
        host.connected.clear()
        keeper.peer_disconnected("a", "gone")
        await trio.sleep(1.5)
        assert found == [("a", "a@1")] * 2
        nursery.cancel_scope.cancel()
    counted = {
        labels["outcome"]: value for name, labels, value in registry.collect() if name == "peers_dials"
    }
    assert counted["successful"] == 2
    assert counted["failed"] >= failed


@mock_clock_test
async def test_a_peer_that_throws_us_out_is_dialled_less_and_less() -> None:
    host = FakeHost()
    host.reachable.add("a")
    keeper = dialer(host, Registry(""), "a@1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        for _ in range(300):
            await trio.sleep(1)
            host.connected.clear()
            keeper.peer_disconnected("a", "other cluster")
        nursery.cancel_scope.cancel()
    assert len(host.dials) < 15


@mock_clock_test
async def test_addresses_that_can_never_work_are_left() -> None:
    host = FakeHost()
    host.reachable.add("me")
    keeper = dialer(host, Registry(""), "bad@1", "me@2")
    with trio.move_on_after(600) as waiting:
        await keeper.run()
    assert waiting.cancelled_caught  # its end would be the node's
    assert [address for _, address in host.dials].count("bad@1") == 1
    assert len(host.dials) == 2
