"""The shell: real sockets on loopback."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kernel_proc.discovery.discv5.dialogue import TooManyRequestsError
from kernel_proc.discovery.discv5.endpoint import UdpEndpoint
from kernel_proc.discovery.discv5.engine import NodeCallbacks
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.discv5.service import Discv5Error, Discv5Service
from kernel_proc.discovery.discv5.wanted import waku_filter
from kernel_proc.discovery.enr import Enr
from kernel_proc.discovery.enr_local import LocalEnr
from kernel_proc.discovery.enr_values import Capability
from tests.support.aio import trio_test
from tests.unit.kernel_proc.discovery.discv5.simulation import identity, record_of

QUICK = Params(exempt_loopback=True, walk_pause=0.5, check_interval=1.0, request_timeout=1.0)


class Member:
    """A service that records its callbacks."""

    def __init__(
        self,
        number: int,
        bootstrap: Iterable[Enr] = (),
        *,
        shards: Iterable[int] = (0,),
        params: Params | None = QUICK,
        listen: tuple[tuple[str, int], ...] = (("127.0.0.1", 0),),
        ips: tuple[str, ...] = ("/ip4/127.0.0.1",),
        **callbacks: Any,
    ) -> None:
        local = LocalEnr(identity(number), now_ms=1000)
        local.set_capabilities(Capability.RELAY)
        local.set_shards(1, shards)
        local.set_addresses(f"{ip}/tcp/60000" for ip in ips)
        self.found: dict[bytes, Enr] = {}
        self.seen: list[UdpEndpoint] = []
        self.heard = trio.Event()
        self.service = Discv5Service(
            local,
            listen=listen,
            bootstrap=bootstrap,
            params=params,
            callbacks=NodeCallbacks(**{"found": self._take, "external": self.seen.append, **callbacks}),
        )

    def _take(self, record: Enr) -> None:
        self.found[record.node_id] = record
        self.heard.set()
        self.heard = trio.Event()

    @property
    def record(self) -> Enr:
        return self.service.local.record

    @property
    def known(self) -> set[bytes]:
        return {node.contact.node_id for node in self.service.nodes() if node.verified}

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something holds, asked when a node was found and a few times a second."""
        while not true():
            with trio.move_on_after(0.1):
                await self.heard.wait()


@asynccontextmanager
async def running(*members: Member) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        for member in members:
            await nursery.start(member.service.run)
        yield nursery
        nursery.cancel_scope.cancel()


@trio_test()
async def test_eight_nodes_find_each_other_through_one() -> None:
    boot = Member(0)
    async with running(boot) as nursery:
        members = [boot]
        for number in range(1, 8):
            members.append(Member(number, [boot.record]))
            await nursery.start(members[-1].service.run)
        everyone = {member.record.node_id for member in members}
        for member in members:
            others = everyone - {member.record.node_id}
            await member.until(lambda member=member, others=others: others <= member.known)  # type: ignore[misc]
            await member.until(lambda member=member, others=others: others <= member.found.keys())  # type: ignore[misc]
        # Records arrive whole: where the libp2p node is, and its shards.
        assert members[3].found[members[5].record.node_id] == members[5].record
        # Enough nodes see each one for it to know its endpoint.
        await boot.until(lambda: bool(members[2].seen))
        assert members[2].seen == [members[2].service.bound[0]]
        assert members[2].service.observed() == members[2].service.bound[0]
        counters = members[2].service.counters()
        assert counters["bytes_sent"] > 0
        assert counters["datagrams_not_sent"] == 0


@trio_test()
async def test_the_bound_port_is_announced() -> None:
    member = Member(1)
    async with running(member):
        assert member.record.udp4 == member.service.bound[0].port != 0


@trio_test()
async def test_only_nodes_on_our_shards_are_reported() -> None:
    boot = Member(0, shards=[1])
    same, other = Member(1, shards=[3, 4]), Member(2, shards=[9])
    async with running(boot) as nursery:
        for member in (same, other):
            member.service.set_bootstrap([boot.record])
            await nursery.start(member.service.run)
        me = Member(3, [boot.record], wanted=waku_filter(1, lambda: {4}))
        await nursery.start(me.service.run)
        await me.until(lambda: len(me.known) == 3)
        await me.until(lambda: bool(me.found))
        assert set(me.found) == {same.record.node_id}


@trio_test()
async def test_requests() -> None:
    a, b = Member(1), Member(2)
    async with running(a, b):
        pong = await a.service.ping(b.record)
        assert pong.observed == a.service.bound[0]
        assert await a.service.find_node(b.record, [0]) == [b.record]
        assert a.service.gauges()["nodes_verified"] == 1
    for ask in (a.service.ping, lambda record: a.service.find_node(record, [1])):
        with pytest.raises(Discv5Error, match="is not running"):
            await ask(b.record)


@trio_test()
async def test_silence_raises() -> None:
    a = Member(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        mute_peer = record_of(identity(9), "127.0.0.1", mute.getsockname()[1])
        async with running(a):
            with pytest.raises(Discv5Error, match="no response"):
                await a.service.ping(mute_peer)
            for _ in range(8):
                a.service._engine.ping(mute_peer, trio.current_time())  # type: ignore[union-attr]
            with pytest.raises(TooManyRequestsError):
                await a.service.ping(mute_peer)
        assert a.service.counters()["timeouts"] == 1


@trio_test()
async def test_stop_and_start_again() -> None:
    a, b = Member(1), Member(2)
    async with running(b) as nursery:
        a.service.set_bootstrap([b.record])
        for _ in range(2):
            await nursery.start(a.service.run)
            with pytest.raises(Discv5Error, match="already running"):
                await a.service.run()
            await a.until(lambda: bool(a.known))
            mute = record_of(identity(9), "127.0.0.1", 9)
            failures: list[str] = []

            async def ask(mute: Enr = mute, failures: list[str] = failures) -> None:
                try:
                    await a.service.ping(mute)
                except Discv5Error as error:
                    failures.append(str(error))

            async with trio.open_nursery() as asking:
                asking.start_soon(ask)
                await wait_all_tasks_blocked()
                a.service.stop()
            assert failures == ["discv5 was stopped"]
            assert a.service.bound == ()
            assert a.service.gauges() == {}
            assert a.service.nodes() == []
            assert a.service.add_record(b.record) is None
        assert a.service.counters()["handshakes_sent"] >= 2
        a.service.stop()  # once more does no harm


@trio_test()
async def test_settings_while_it_runs() -> None:
    a, b, c = Member(1), Member(2), Member(3)
    async with running(a, b, c):
        assert a.service.add_record(b.record) is not None
        await a.until(lambda: b.record.node_id in a.known)
        a.service.set_walk_pause(0.2)
        a.service.set_bootstrap([c.record, a.record, record_of(identity(9), "127.0.0.1")])
        await a.until(lambda: c.record.node_id in a.known)


@trio_test()
async def test_a_changed_record_is_announced_at_once() -> None:
    slow = replace(QUICK, walk_pause=1e6, check_interval=1e6)
    a, b = Member(1, params=slow), Member(2, params=slow)
    async with running(a, b):
        a.service.add_record(b.record)
        await a.until(lambda: bool(a.known))
        await b.until(lambda: bool(b.known))
        b.service.local.set_shards(1, [5])
        await a.until(lambda: a.service.nodes()[0].record == b.record)


@trio_test()
async def test_ipv6_and_both() -> None:
    six = Member(1, listen=(("::1", 0),), ips=("/ip6/::1",))
    dual = Member(2, listen=(("127.0.0.1", 0), ("::1", 0)), ips=("/ip4/127.0.0.1", "/ip6/::1"))
    four = Member(3)
    async with running(six, dual, four):
        assert len({endpoint.port for endpoint in dual.service.bound}) == 1
        assert six.record.udp6 == six.service.bound[0].port
        assert (await dual.service.ping(six.record)).observed == dual.service.bound[1]
        assert (await dual.service.ping(four.record)).observed == dual.service.bound[0]
        assert (await six.service.ping(dual.record)).observed == six.service.bound[0]
        with pytest.raises(ValueError, match="is not reachable"):
            await six.service.ping(four.record)


@trio_test()
async def test_addresses_that_cannot_be_had() -> None:
    a, b = Member(1), Member(2)
    async with running(a):
        taken = Member(3, listen=(("127.0.0.1", a.service.bound[0].port),))
        with pytest.raises(OSError, match="in use"):
            await taken.service.run()
        assert not taken.service.running
    for listen in ((), (("127.0.0.1", 0), ("127.0.0.2", 0)), (("example.org", 0),)):
        with pytest.raises(ValueError):
            Discv5Service(b.service.local, listen=listen)


@trio_test()
async def test_garbage_and_floods_are_borne() -> None:
    """Nothing that an unknown sender does stops the service or keeps others from it."""
    victim, friend = Member(1, params=replace(QUICK, exempt_loopback=False)), Member(2)
    noise = random.Random(1)
    async with running(victim, friend):
        await friend.service.ping(victim.record)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.2", 0))  # a rate of its own
            for number in range(3000):
                sock.sendto(noise.randbytes(noise.randrange(0, 2000)), tuple(victim.service.bound[0]))
                if number % 50 == 0:
                    await trio.sleep(0)
        await victim.until(lambda: victim.service.counters()["packets_limited"] > 500)
        while True:  # what the system had no room for is lost, a PING as well: the next one gets through
            with suppress(Discv5Error):
                await friend.service.ping(victim.record)
                break
        assert victim.service.counters()["packets_malformed"] > 0


@trio_test()
async def test_only_loopback_is_exempt_by_itself() -> None:
    local = Member(1, params=None).service
    public = Member(2, params=None, listen=(("0.0.0.0", 0),)).service
    assert (local._params.exempt_loopback, public._params.exempt_loopback) == (True, False)


@trio_test()
async def test_defects_of_callbacks_are_logged_and_do_not_end_the_service(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("defect")

    a, b = Member(1), Member(2, external=broken, wanted=broken)
    async with running(a, b):
        assert b.service.add_record(a.record) is not None
        await b.until(lambda: b.service.counters()["callback_failures"] >= 2)
        assert await a.service.ping(b.record)
    assert "callback raised" in caplog.text
