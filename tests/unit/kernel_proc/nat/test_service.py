"""Mappings against a router that fails to order, in simulated time."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from kernel_proc.metrics import Registry
from kernel_proc.nat.gateway import GatewayError, LocalPort, NatGateway
from kernel_proc.nat.ports import mappable
from kernel_proc.nat.service import LEASE, REFRESH, RETRY, SEARCH, PortMapper
from tests.support.mock_clock import mock_clock_test

TCP, UDP = LocalPort("tcp", 60000), LocalPort("udp", 9000)


class Router:
    """A router that does as its attributes say."""

    kind = "pmp"

    def __init__(self) -> None:
        self.ip = "8.8.4.4"
        self.table: dict[LocalPort, int] = {}
        self.refused: set[LocalPort] = set()
        self.away = False
        self.searches = 0
        self.longest = LEASE
        self.granted: list[float] = []

    async def find(self) -> NatGateway:
        self.searches += 1
        await self._reply()
        return self

    async def external_ip(self) -> str:
        await self._reply()
        return self.ip

    async def add(self, port: LocalPort, external: int, lease: int) -> tuple[int, float]:
        await self._reply()
        if port in self.refused:
            raise GatewayError("no")
        self.table[port] = external + 1 if port not in self.table else external
        self.granted.append(trio.current_time())
        return self.table[port], min(lease, self.longest)

    async def remove(self, port: LocalPort, external: int) -> None:
        await self._reply()
        assert self.table.pop(port) == external

    async def _reply(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise GatewayError("no reply")


class Node:
    """What it wants mapped, and what it was notified of."""

    def __init__(self, router: Router) -> None:
        self.wanted = {TCP, UDP}
        self.notified: tuple[str | None, Mapping[LocalPort, int]] = None, {}
        self.mapper = PortMapper([router.find], lambda: self.wanted, self.changed, Registry())

    def changed(self, ip: str | None, ports: Mapping[LocalPort, int]) -> None:
        self.notified = ip, ports


@mock_clock_test
async def test_a_mapping_is_kept_and_removed_at_the_end() -> None:
    router = Router()
    node = Node(router)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.mapper.run)
        await trio.sleep(1)
        assert node.notified == ("8.8.4.4", {TCP: 60001, UDP: 9001})
        router.table.clear()  # a restart
        router.ip = "8.8.4.5"
        await trio.sleep(REFRESH)
        assert node.notified == ("8.8.4.5", {TCP: 60002, UDP: 9002})
        assert node.notified[1] == router.table
        node.wanted = {TCP}
        node.mapper.look()
        await trio.sleep(0.1)
        assert router.table == {TCP: 60002}
        nursery.cancel_scope.cancel()
    assert router.table == {}
    assert router.searches == 1


@mock_clock_test
async def test_a_lease_that_is_short_is_renewed_before_it_ends() -> None:
    router = Router()
    node = Node(router)
    node.wanted = {TCP}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.mapper.run)
        for router.longest, pause in ((40, 20.0), (1, RETRY)):
            node.mapper.look()
            await trio.sleep(REFRESH)
            assert router.granted[-1] - router.granted[-2] == pause
        nursery.cancel_scope.cancel()


@mock_clock_test
async def test_a_router_that_is_gone_is_announced_until_the_lease_ends() -> None:
    router = Router()
    node = Node(router)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.mapper.run)
        await trio.sleep(1)
        router.away = True
        await trio.sleep(LEASE - 2 * REFRESH)
        assert node.notified[0] == "8.8.4.4"
        assert node.mapper.describe()["error"] == "no reply"
        await trio.sleep(3 * REFRESH)
        assert node.notified == (None, {})
        router.away = False
        await trio.sleep(SEARCH)
        assert node.notified[0] == "8.8.4.4"
        nursery.cancel_scope.cancel()


@mock_clock_test
async def test_one_refused_port_does_not_cost_the_other() -> None:
    router = Router()
    router.refused.add(UDP)
    node = Node(router)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.mapper.run)
        await trio.sleep(1)
        assert node.notified == ("8.8.4.4", {TCP: 60001})
        assert node.mapper.describe()["error"] == "no"
        nursery.cancel_scope.cancel()
    assert router.table == {}


@mock_clock_test
async def test_a_private_external_address_is_not_announced() -> None:
    router = Router()
    router.ip = "100.64.0.1"
    node = Node(router)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.mapper.run)
        await trio.sleep(1)
        assert node.notified == (None, {})
        assert "100.64.0.1" in str(node.mapper.describe()["error"])
        nursery.cancel_scope.cancel()


def test_ports_of_private_addresses_are_mapped() -> None:
    home = ["/ip4/192.168.1.5/tcp/60000", "/ip4/127.0.0.1/tcp/60000", "/ip4/192.168.1.5/tcp/8000/ws"]
    assert mappable(home, [("0.0.0.0", 9000)]) == {TCP, LocalPort("tcp", 8000), UDP}
    assert mappable(home, [("127.0.0.1", 9000), ("::", 9001)]) == {TCP, LocalPort("tcp", 8000)}
    assert mappable(["/ip4/8.8.8.8/tcp/60000", "/ip6/fe80::1/tcp/60000"], [("0.0.0.0", 9000)]) == set()
