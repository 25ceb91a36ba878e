"""Our discv5 with that of @chainsafe/discv5, the one of Lodestar, on loopback.

With both protocol ids: the package's own, and Waku's, for which a loader exchanges the constant in its packet
modules. Its records and ours are also read by @chainsafe/enr and @waku/enr.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import pytest
import trio

from kernel_proc.discovery.discv5.engine import NodeCallbacks
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.discv5.service import Discv5Service
from kernel_proc.discovery.enr import Enr
from kernel_proc.discovery.enr_identity import Identity
from kernel_proc.discovery.enr_local import LocalEnr
from kernel_proc.discovery.enr_values import Capability
from tests.interop.discv5.conftest import MakeJsNode
from tests.interop.discv5.js_node import JsNode
from tests.interop.inbox import CommandError
from tests.support.aio import trio_test

pytestmark = pytest.mark.interop

BOTH_IDS = pytest.mark.parametrize("protocol_id", ["discv5", "d5waku"])


class Ours:
    """A service of ours, and the nodes it found."""

    def __init__(
        self, number: int, bootstrap: Iterable[str] = (), *, protocol_id: str, port: int = 0
    ) -> None:
        local = LocalEnr(Identity(random.Random(number).randbytes(32)), now_ms=1000)
        local.set_capabilities(Capability.RELAY | Capability.STORE)
        local.set_shards(1, [0])
        local.set_addresses(["/ip4/127.0.0.1/tcp/60000"])
        self.found: dict[bytes, Enr] = {}
        self.service = Discv5Service(
            local,
            listen=[("127.0.0.1", port)],
            bootstrap=map(Enr.from_text, bootstrap),
            params=Params(
                protocol_id=protocol_id.encode(), exempt_loopback=True, walk_pause=0.5, check_interval=1.0
            ),
            callbacks=NodeCallbacks(found=lambda record: self.found.update({record.node_id: record})),
        )

    @property
    def enr(self) -> str:
        return self.service.local.record.text

    @property
    def node_id(self) -> bytes:
        return self.service.local.node_id

    @property
    def known(self) -> set[bytes]:
        return {node.contact.node_id for node in self.service.nodes() if node.verified}


@asynccontextmanager
async def running(*services: Ours) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        for ours in services:
            await nursery.start(ours.service.run)
        yield nursery
        nursery.cancel_scope.cancel()


async def until(true: Callable[[], bool]) -> None:
    """Poll the table a few times a second until the test's deadline: its changes emit no event."""
    while not true():
        await trio.sleep(0.05)


async def in_its_table(node: JsNode, enr: str) -> None:
    while enr not in await node.ask("table"):
        await trio.sleep(0.1)


@BOTH_IDS
def test_we_ask_it(make_js_node: MakeJsNode, protocol_id: str) -> None:
    js = make_js_node(protocol_id=protocol_id, number=1)

    @trio_test()
    async def run() -> None:
        ours, record = Ours(1, protocol_id=protocol_id), Enr.from_text(js.enr)
        async with running(ours):
            pong = await ours.service.ping(record)
            assert pong.observed == ours.service.bound[0]
            assert pong.record_seq == record.seq
            assert await ours.service.find_node(record, [0]) == [record]
            assert ours.service.counters()["handshakes_sent"] == 1

    run()


@BOTH_IDS
def test_it_asks_us(make_js_node: MakeJsNode, protocol_id: str) -> None:
    js = make_js_node(protocol_id=protocol_id, number=1)

    @trio_test()
    async def run() -> None:
        ours = Ours(1, protocol_id=protocol_id)
        async with running(ours):
            pong = await js.ask("ping", enr=ours.enr)
            mine = Enr.from_text(js.enr)
            assert pong == {"seq": str(ours.service.local.record.seq), "host": mine.ip4, "port": mine.udp4}
            assert await js.ask("nodes", enr=ours.enr, distances=[0]) == [ours.enr]
            assert await js.ask("talk", enr=ours.enr, protocol="other", payload="00") == ""
            assert ours.service.counters()["handshakes_received"] == 1
            # It is one of us now, and knows us.
            await until(lambda: js.node_id in ours.known)
            await in_its_table(js, ours.enr)

    run()


@BOTH_IDS
def test_it_is_the_bootstrap_of_ours(make_js_node: MakeJsNode, protocol_id: str) -> None:
    js = make_js_node(protocol_id=protocol_id, number=1)

    @trio_test(deadline=60)
    async def run() -> None:
        ours = [Ours(number, [js.enr], protocol_id=protocol_id) for number in range(1, 7)]
        everyone = {js.node_id, *(node.node_id for node in ours)}
        async with running(*ours):
            for node in ours:
                await until(lambda node=node: everyone - {node.node_id} <= node.known)  # type: ignore[misc]
                assert everyone - {node.node_id} <= node.found.keys()
            for node in ours:
                await in_its_table(js, node.enr)

    run()


@BOTH_IDS
def test_it_is_found_through_ours_and_finds_others_so(make_js_node: MakeJsNode, protocol_id: str) -> None:
    @trio_test(deadline=60)
    async def run() -> None:
        boot = Ours(1, protocol_id=protocol_id)
        async with running(boot) as nursery:
            one = await trio.to_thread.run_sync(lambda: make_js_node(protocol_id=protocol_id, number=1))
            two = await trio.to_thread.run_sync(lambda: make_js_node(protocol_id=protocol_id, number=2))
            for js in (one, two):
                await js.ask("add", enr=boot.enr)
                await js.ask("lookup")
            ours = Ours(2, [boot.enr], protocol_id=protocol_id)
            await nursery.start(ours.service.run)
            await until(lambda: {one.node_id, two.node_id} <= ours.known)
            assert {one.node_id, two.node_id} <= ours.found.keys()
            # Our node tells the package's nodes of each other and of itself.
            while ours.enr not in await one.ask("lookup"):
                await trio.sleep(0.2)
            while two.enr not in await one.ask("lookup"):
                await trio.sleep(0.2)

    run()


@BOTH_IDS
def test_after_a_restart_of_either_side_it_goes_on(make_js_node: MakeJsNode, protocol_id: str) -> None:
    js = make_js_node(protocol_id=protocol_id, number=1)
    port = Enr.from_text(js.enr).udp4

    @trio_test(deadline=60)
    async def run() -> None:
        ours = Ours(1, protocol_id=protocol_id)
        async with running(ours):
            await ours.service.ping(Enr.from_text(js.enr))
            await js.ask("ping", enr=ours.enr)
            await trio.to_thread.run_sync(js.kill)
            again = await trio.to_thread.run_sync(
                lambda: make_js_node(protocol_id=protocol_id, number=1, port=port, seq=2)
            )
            assert (await ours.service.ping(Enr.from_text(again.enr))).record_seq == 2
            assert await again.ask("ping", enr=ours.enr)
            await until(lambda: any(node.record.seq == 2 for node in ours.service.nodes()))
            where = ours.service.bound[0].port
        # Ours forgets its keys, and comes back at the same place.
        restarted = Ours(1, protocol_id=protocol_id, port=where)
        async with running(restarted):
            assert await restarted.service.ping(Enr.from_text(again.enr))
            assert await again.ask("ping", enr=restarted.enr)

    run()


@BOTH_IDS
def test_changes_of_records_are_learned(make_js_node: MakeJsNode, protocol_id: str) -> None:
    js = make_js_node(protocol_id=protocol_id, number=1)

    @trio_test(deadline=60)
    async def run() -> None:
        ours = Ours(1, [js.enr], protocol_id=protocol_id)
        async with running(ours):
            await until(lambda: js.node_id in ours.known)
            await in_its_table(js, ours.enr)
            changed = (await js.ask("change"))["enr"]
            await until(lambda: any(node.record.text == changed for node in ours.service.nodes()))
            ours.service.local.set_shards(1, [0, 1])
            await in_its_table(js, ours.enr)

    run()


def test_nodes_of_another_protocol_id_are_not_heard(make_js_node: MakeJsNode) -> None:
    js = make_js_node(protocol_id="discv5", number=1)

    @trio_test()
    async def run() -> None:
        ours = Ours(1, [js.enr], protocol_id="d5waku")
        async with running(ours):
            with pytest.raises(Exception, match="RPC failure"):
                await js.ask("ping", enr=ours.enr)
            assert ours.service.counters()["packets_malformed"] > 0
            assert ours.service.counters()["whoareyou_sent"] == 0
            assert not ours.known

    run()


def test_each_side_learns_its_right_endpoint(make_js_node: MakeJsNode) -> None:
    js = make_js_node(protocol_id="d5waku", number=1)

    @trio_test(deadline=60)
    async def run() -> None:
        ours = [Ours(number, [js.enr], protocol_id="d5waku") for number in range(1, 5)]
        async with running(*ours):
            for node in ours:
                try:
                    pong = await js.ask("ping", enr=node.enr)
                except CommandError:  # where two handshakes cross it gives up after a second
                    pong = await js.ask("ping", enr=node.enr)
                assert (pong["host"], pong["port"]) == ("127.0.0.1", Enr.from_text(js.enr).udp4)
            await until(lambda: all(node.service.observed() == node.service.bound[0] for node in ours))

    run()


def test_other_readers_read_our_records(make_js_node: MakeJsNode) -> None:
    js = make_js_node(protocol_id="d5waku", number=1)
    local = LocalEnr(Identity(random.Random(5).randbytes(32)), now_ms=1_700_000_000_000)
    local.set_capabilities(Capability.RELAY | Capability.LIGHTPUSH)
    local.set_shards(5, [1, 7, 300])
    local.set_udp(udp4=9000, udp6=None)
    local.set_addresses(
        [
            f"/ip4/192.0.2.7/tcp/60000/p2p/{local.identity.peer_id}",
            f"/dns4/node.example.org/tcp/8000/wss/p2p/{local.identity.peer_id}",
        ]
    )
    record = local.record
    assert js.request("decode", enr=record.text) == {
        "nodeId": record.node_id.hex(),
        "peerId": record.peer_id,
        "seq": str(record.seq),
        "ip": "192.0.2.7",
        "tcp": 60000,
        "udp": 9000,
    }
    assert js.request("waku", enr=record.text) == {
        "peerId": record.peer_id,
        "waku2": {"relay": True, "store": False, "filter": False, "lightPush": True},
        "shards": {"clusterId": 5, "shards": [1, 7, 300]},
        "multiaddrs": ["/dns4/node.example.org/tcp/8000/wss"],
    }
    theirs = Enr.from_text(js.enr)
    assert theirs.node_id == js.node_id
    assert theirs.shards is not None
    assert (theirs.shards.cluster, set(theirs.shards.shards)) == (1, {0})
    assert theirs.addresses == (f"/ip4/127.0.0.1/tcp/60000/p2p/{theirs.peer_id}",)
