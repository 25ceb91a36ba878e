"""The peer manager on a host that is only pretended, with a clock that jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Set
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import cast

import trio

from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import DialError, Direction, EndCause, Host, PeerConnection, PeerIdentity
from kernel_proc.peers.clock import PeerClock
from kernel_proc.peers.known import KnownPeer, PeerFacts, PeerOrigin, group_of_address
from kernel_proc.peers.manager import PeerManager
from kernel_proc.peers.needs import Needs
from kernel_proc.peers.plan import PeerNeeds, Targets
from kernel_proc.peers.settings import ManagerSettings
from kernel_proc.peers.store import PeerStore
from kernel_proc.protocols import store_codec
from kernel_proc.relay.params import RELAY_PROTOCOL
from tests.support.mock_clock import mock_clock_test

START = 1_800_000_000.0


class FakeHost:
    """Every dial of an address in `there` succeeds; the network may be `down`."""

    peer_id = "me"

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.down = False
        self.refusing = False
        """Dials that fail do so at once."""
        self.dials: list[str] = []
        self.dialling = 0
        self.most_at_once = 0
        self.live: dict[str, PeerConnection] = {}
        self.identities: dict[str, PeerIdentity] = {}
        self.manager: PeerManager | None = None

    async def connect(self, address: str, *, deadline: float = 10.0) -> str:
        self.dials.append(address)
        self.dialling += 1
        self.most_at_once = max(self.most_at_once, self.dialling)
        try:
            works = address in self.there and not self.down
            await trio.sleep(1.0 if works else 0.0 if self.refusing else deadline)
        finally:
            self.dialling -= 1
        if address not in self.there or self.down:
            raise DialError("no answer")
        place, _, peer_id = address.partition("/p2p/")
        self.arrive(peer_id, place, Direction.OUTBOUND)
        return peer_id

    def arrive(
        self,
        peer_id: str,
        place: str,
        direction: Direction,
        *,
        listens: Iterable[str] = (),
        protocols: tuple[str, ...] = (RELAY_PROTOCOL,),
    ) -> None:
        assert self.manager is not None
        made = PeerConnection(peer_id, place, group_of_address(place), direction, trio.current_time())
        self.live[peer_id] = made
        self.manager.peer_connected(made)
        identity = PeerIdentity(peer_id, "", protocols, tuple(listens), None)
        self.identities[peer_id] = identity
        self.manager.peer_identified(identity)

    async def disconnect(self, peer_id: str, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        self.leave(peer_id, reason)

    def leave(self, peer_id: str, reason: str = "gone", cause: EndCause = EndCause.OTHER) -> None:
        assert self.manager is not None
        if self.live.pop(peer_id, None) is not None:
            self.identities.pop(peer_id)
            self.manager.peer_disconnected(peer_id, reason, cause)

    def is_connected(self, peer_id: str) -> bool:
        return peer_id in self.live

    def identity(self, peer_id: str) -> PeerIdentity | None:
        return self.identities.get(peer_id)


class View(Needs):
    """A node on one shard, whatever its relay and its peers say."""

    def __init__(self) -> None:
        self.working: set[str] = set()
        self.at_work = lambda: frozenset(self.working)

    def wanted(self) -> PeerNeeds:
        return PeerNeeds(2, frozenset({0}), frozenset())

    def shards_of(self, peer_id: str) -> Collection[int]:
        return (0,)

    def mesh(self) -> Set[str]:
        return frozenset()

    def score_of(self, peer_id: str) -> float:
        return 0.0


def address(number: int) -> str:
    return f"/ip4/10.1.{number >> 8}.{number & 255}/tcp/1/p2p/p{number}"


@asynccontextmanager
async def managed(
    path: Path | None = None, view: View | None = None, **targets: int
) -> AsyncIterator[tuple[FakeHost, PeerManager]]:
    host, registry = FakeHost(), Registry("")
    store = PeerStore(300, rng=Random(1), keep=host.is_connected, own_id="me")
    limits = {"total": 50, "relay_out": 8, "relay_in": 16, "service": 25} | targets
    manager = host.manager = PeerManager(
        cast("Host", host),
        store,
        ManagerSettings(
            targets=Targets(**limits),
            per_group=3,
            loopback=False,
            usable=lambda _address: True,
            path=path,
        ),
        view or View(),
        registry,
        Random(2),
        clock=PeerClock(lambda: START, trio.current_time, "boot"),
    )
    manager.restore()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(manager.run)
        yield host, manager
        nursery.cancel_scope.cancel()


@mock_clock_test
async def test_it_dials_in_parallel_until_the_target_is_met() -> None:
    async with managed() as (host, manager):
        for number in range(40):
            host.there.add(address(number))
            assert manager.learn(f"p{number}", (address(number),), PeerOrigin.DISCV5)
        await trio.sleep(3)
        assert len(host.live) == 8
        assert 4 <= host.most_at_once <= 10
        await trio.sleep(600)
        assert len(host.dials) == 8, "who has enough leaves the others alone"
        host.leave("p" + host.dials[0].partition("/p2p/p")[2])
        await trio.sleep(5)
        assert len(host.live) == 8, "the place of one that left is filled"


@mock_clock_test
async def test_a_place_that_fills_up_before_a_dial_begins_is_not_dialled() -> None:
    async with managed() as (host, manager):
        for number in range(3):  # as many as one place may have
            host.arrive(f"in{number}", "/ip4/10.1.0.7/tcp/5", Direction.INBOUND)
        peer = KnownPeer("p", ("/ip4/10.1.0.7/tcp/1/p2p/p", address(8)), group="10.1.0.7")
        await manager._dial(peer)
        assert host.dials == [address(8)], "where there is room"
        await manager._dial(KnownPeer("q", ("/ip4/10.1.0.7/tcp/2/p2p/q",), group="10.1.0.7"))
        assert host.dials == [address(8)]


@mock_clock_test
async def test_bogus_peers_do_not_starve_good_ones() -> None:
    async with managed() as (host, manager):
        for number in range(1000, 11_000):
            manager.learn(f"p{number}", (address(number),), PeerOrigin.PEER_EXCHANGE)
        assert len(manager.store) <= 300
        await trio.sleep(120)
        for number in range(8):
            host.there.add(address(number))
            manager.learn(f"p{number}", (address(number),), PeerOrigin.DISCV5)
            manager.store.succeeded(f"p{number}", START + trio.current_time())
        await trio.sleep(60)
        assert len(host.live) == 8
        assert host.most_at_once <= 10


@mock_clock_test
async def test_after_an_outage_everybody_is_back_within_seconds() -> None:
    async with managed() as (host, manager):
        for number in range(8):
            host.there.add(address(number))
            manager.learn(f"p{number}", (address(number),), PeerOrigin.DISCV5)
        await trio.sleep(30)
        assert len(host.live) == 8
        host.down = True
        for peer_id in list(host.live):
            host.leave(peer_id)
        await trio.sleep(3600)
        assert not manager.online
        assert all(peer.failures <= 1 for peer in manager.store), "the outage was ours"
        tried = len(host.dials)
        await trio.sleep(600)
        assert len(host.dials) - tried < 600, "and no peer is hammered meanwhile"
        host.down = False
        await trio.sleep(60)
        assert len(host.live) == 8


@mock_clock_test
async def test_a_peer_of_another_cluster_is_not_dialled_again_for_long() -> None:
    async with managed() as (host, manager):
        host.there.add(address(1))
        manager.learn("p1", (address(1),), PeerOrigin.DISCV5)
        await trio.sleep(3)
        manager.other_network("p1", "metadata: peer is in cluster 9, ours is 2")
        host.leave("p1", "closed by peer")
        await trio.sleep(1800)
        assert len(host.dials) == 1
        known = manager.store.get("p1")
        assert known is not None
        assert "in cluster 9" in known.why
        await trio.sleep(3600)
        assert len(host.dials) == 2


@mock_clock_test
async def test_inbound_peers_are_remembered_only_at_their_observed_address() -> None:
    async with managed() as (host, manager):
        listens = ("/ip4/10.9.0.1/tcp/600", "/ip4/8.8.8.8/tcp/25", "/ip4/127.0.0.1/tcp/1")
        host.arrive("x", "/ip4/10.9.0.1/tcp/40000", Direction.INBOUND, listens=listens)
        known = manager.store.get("x")
        assert known is not None
        assert known.addresses == ("/ip4/10.9.0.1/tcp/600/p2p/x",)
        host.arrive("z", "/ip4/10.9.0.1/tcp/600/p2p/x/p2p-circuit", Direction.INBOUND, listens=listens)
        assert manager.store.get("z") is None, "the address is that of the relay"
        assert not manager.learn("y", ("/ip4/127.0.0.1/tcp/22",), PeerOrigin.DISCV5)
        assert not manager.learn("y", ("/ip4/0.0.0.0/tcp/22",), PeerOrigin.DISCV5)
        assert not manager.learn("y", (address(9),), PeerOrigin.DISCV5, PeerFacts(seq=1, cluster=9))
        await trio.lowlevel.checkpoint()


@mock_clock_test
async def test_inbound_peers_beyond_their_share_are_disconnected() -> None:
    async with managed(total=12, relay_out=4, relay_in=5, service=3) as (host, _):
        for number in range(12):
            host.arrive(f"i{number}", f"/ip4/10.7.0.{number}/tcp/1", Direction.INBOUND)
        await trio.sleep(60)
        assert len(host.live) < 12


@mock_clock_test
async def test_a_peer_at_an_address_of_the_operators_is_the_operators() -> None:
    async with managed(total=12, relay_out=4, relay_in=5, service=3) as (host, manager):
        for number in range(12):
            host.arrive(f"i{number}", f"/ip4/10.7.0.{number}/tcp/1", Direction.INBOUND)
        host.arrive("named", "/ip4/10.8.0.1/tcp/1", Direction.OUTBOUND)
        manager.operator_peer_found("named", "/ip4/10.8.0.1/tcp/1")
        manager.operator_peer_found("i3", "/dns4/here.example/tcp/1")
        known = manager.store.get("named")
        assert known is not None
        assert known.origin == PeerOrigin.STATIC
        await trio.sleep(60)
        assert len(host.live) < 13
        assert {"named", "i3"} <= host.live.keys()
        manager.operator_peer_found("i4", "/dns4/here.example/tcp/1")  # another one answers there now
        assert not manager.is_configured("i3")


@mock_clock_test
async def test_our_own_shutdown_is_not_a_failure_of_the_peer() -> None:
    async with managed() as (host, manager):
        for number in (1, 2):
            host.there.add(address(number))
            manager.learn(f"p{number}", (address(number),), PeerOrigin.DISCV5)
        await trio.sleep(3)
        host.leave("p1", "host stopped", EndCause.HOST_STOPPED)
        host.leave("p2", "closed by peer")
        assert [peer.failures for peer in manager.store] == [0, 1]


@mock_clock_test
async def test_peers_with_a_request_in_progress_are_not_disconnected() -> None:
    view = View()
    view.working = {f"i{number}" for number in range(12)}
    async with managed(view=view, total=12, relay_out=4, relay_in=5, service=3) as (host, _):
        for number in range(12):
            host.arrive(f"i{number}", f"/ip4/10.7.0.{number}/tcp/1", Direction.INBOUND)
        await trio.sleep(120)
        assert len(host.live) == 12
        view.working = {"i0", "i1"}
        await trio.sleep(60)
        assert {"i0", "i1"} <= host.live.keys()
        assert len(host.live) < 12


@mock_clock_test
async def test_dials_that_fail_at_once_in_an_outage_are_excused() -> None:
    async with managed() as (host, manager):
        for number in range(40):
            manager.learn(f"p{number}", (address(number),), PeerOrigin.DISCV5)
        for number in range(4):
            host.there.add(address(number))
        await trio.sleep(200)
        assert len(host.live) == 4
        before = {peer.peer_id: peer.failures for peer in manager.store}
        assert max(before.values()) > 2
        host.down, host.refusing = True, True  # as without a route
        for peer_id in list(host.live):
            host.leave(peer_id)
        tried = len(host.dials)
        await trio.sleep(600)
        assert not manager.online
        assert len(host.dials) - tried < 1200, "a few every two seconds"
        worse = [peer.peer_id for peer in manager.store if peer.failures > before[peer.peer_id]]
        assert worse == []
        host.down = False
        await trio.sleep(30)
        assert len(host.live) == 4


@mock_clock_test
async def test_all_connections_can_be_dropped_and_come_back() -> None:
    async with managed() as (host, manager):
        for number in range(8):
            host.there.add(address(number))
            manager.learn(f"p{number}", (address(number),), PeerOrigin.DISCV5)
        await trio.sleep(30)
        await manager.drop_all("the machine slept")
        assert host.live == {}
        await trio.sleep(30)
        assert len(host.live) == 8


def test_the_store_is_written_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"

    @mock_clock_test
    async def first() -> None:
        async with managed(path) as (_, manager):
            manager.learn("p1", (address(1),), PeerOrigin.DNS)
            await trio.sleep(0.1)

    @mock_clock_test
    async def second() -> None:
        async with managed(path) as (_, manager):
            known = manager.store.get("p1")
            assert known is not None
            assert known.origin == PeerOrigin.DNS
            await trio.lowlevel.checkpoint()

    first()
    second()


@mock_clock_test
async def test_a_store_that_something_waits_for_is_dialled_again_within_ten_seconds() -> None:
    class WantsStore(View):
        def wanted(self) -> PeerNeeds:
            return PeerNeeds(2, frozenset({0}), frozenset({"store"}))

    protocols = (RELAY_PROTOCOL, store_codec.PROTOCOL)
    async with managed(view=WantsStore()) as (host, manager):
        for number in range(4):
            host.there.add(address(number))
            manager.learn(f"p{number}", (address(number),), PeerOrigin.DISCV5)
        await trio.sleep(5)
        manager.store.described("p3", protocols=protocols)
        host.refusing = True
        host.there.remove(address(3))
        host.leave("p3")
        await trio.sleep(300)
        before = host.dials.count(address(3))
        await trio.sleep(300)
        assert host.dials.count(address(3)) - before >= 28
        assert manager.online
        host.there.add(address(3))
        await trio.sleep(11)
        assert host.is_connected("p3")
