"""Edge nodes know one node; those that serve them, at first and later, they find by peer exchange alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from ipc_schema.kernel.events import SOURCE_FILTER, stream_topic
from logos_client.events import MessageReceived, MessageSent
from logos_client.messaging import MessagingClient
from tests.support.aio import asyncio_test
from tests.support.kernel_process import Dealer, KernelProcess, eventually, short_directory
from tests.support.mapi_process import MapiProcess
from tests.support.networks import GONE, complaints, start_in_pairs
from tests.support.nodes import TOPIC, drain, telling

pytestmark = pytest.mark.integration

CLUSTER = "--cluster-id=43"
SERVER = (
    CLUSTER,
    "--shard=0",
    "--discv5-discovery",
    "--discv5-udp-port=0",
    "--ip-colocation-limit=0",
    "--store",
    "--rate-limit=lightpush:0/1s",
    "--log-level=WARN",
)
EDGE = (CLUSTER, "--relay=false", "--log-level=WARN")
SERVICES = ("/vac/waku/filter-subscribe/", "/vac/waku/lightpush/3", "/vac/waku/store-query/")


def listed(kernel: KernelProcess) -> dict[str, dict[str, object]]:
    dealer = kernel.dealer()
    found = {peer["peer_id"]: peer for peer in dealer.ok("peers.list")["peers"]}
    dealer.close()
    return found


def identity(kernel: KernelProcess) -> str:
    return str(kernel.info("MyPeerId")["MyPeerId"])


def served(edge: KernelProcess, by: int) -> bool:
    """Whether it is connected to so many peers of each service."""
    found = [str(peer["protocols"]) for peer in listed(edge).values()]
    return all(sum(name in one for one in found) >= by for name in SERVICES)


def servers(directory: Path, names: str, stack: ExitStack, *options: str) -> list[KernelProcess]:
    """Service nodes, each with all services."""
    started = [KernelProcess(directory / name, *SERVER, *options) for name in names]
    start_in_pairs(stack, started)
    return started


def joined(newcomers: Sequence[KernelProcess], old: Sequence[KernelProcess]) -> None:
    """Wait until each of the old ones is connected to each newcomer, which it found by discv5."""
    wanted = {identity(kernel) for kernel in newcomers}
    for kernel in old:
        eventually(lambda kernel=kernel: listed(kernel).keys() >= wanted, 40)


def works(edge: KernelProcess, dealer: Dealer, by: Sequence[KernelProcess], mark: bytes) -> None:
    """By these two servers, filter, lightpush and store do what they are for."""
    at, via = by
    peer, other = identity(at), identity(via)
    reader, far = edge.subscriber(stream_topic(43, 0)), at.subscriber(stream_topic(43, 0))
    for one in (reader, far):
        one.heartbeat()
    dealer.ok("filter.subscribe", {"content_topics": [TOPIC], "peer": peer})
    sender = via.dealer()
    sender.ok("relay.publish", {"content_topic": TOPIC}, mark + b" pushed")
    event, payload = reader.message()
    assert (payload, event.source) == (mark + b" pushed", SOURCE_FILTER)
    sent = dealer.ok("lightpush.publish", {"content_topic": TOPIC, "peer": other}, mark + b" pushed back")
    assert sent["peer"] == other
    while far.message()[1] != mark + b" pushed back":
        pass
    query = {"content_topics": [TOPIC], "peer": peer}
    eventually(lambda: sent["message_hash"] in dealer.ok("store.query", query)["hashes"])


@pytest.mark.timeout(150)
def test_service_nodes_that_die_are_replaced_by_others_from_peer_exchange() -> None:
    with short_directory() as directory, ExitStack() as stack:
        (first,) = servers(directory, "0", stack)
        entry = f"--discv5-bootstrap-node={first.info('MyENR')['MyENR']}"
        old = [first, *servers(directory, "12", stack, entry)]
        joined(old[1:], old[:1])
        edge = stack.enter_context(
            KernelProcess(directory / "edge", *EDGE, f"--peer-exchange-node={first.address()}")
        )
        eventually(lambda: served(edge, 3), 60)
        assert {str(peer["origin"]) for peer in listed(edge).values()} == {"static", "peer-exchange"}
        dealer = edge.dealer()
        dealer.ok("lease.acquire", {"shards": [0]})
        works(edge, dealer, old[1:], b"first")

        new = servers(directory, "34", stack, entry)
        joined(new, old[2:])
        assert not listed(edge).keys() & {identity(kernel) for kernel in new}, "it has all that it needs"
        for kernel in old[:2]:
            kernel.stop(9)
        began = time.monotonic()
        eventually(lambda: served(edge, 3), 60)
        print(f"two of three service nodes died: others found after {time.monotonic() - began:.1f} s")
        found = listed(edge)
        assert {found[identity(kernel)]["origin"] for kernel in new} == {"peer-exchange"}

        old[2].stop(9)  # none of its first peers is left
        works(edge, dealer, new, b"second")
        assert not dealer.ok("discovery.status")["discv5"]["running"]
        for kernel in (edge, *old, *new):
            assert not complaints(kernel.log, GONE)


@asyncio_test(150)
async def test_apps_on_edge_nodes_that_know_one_node_go_on_when_it_dies() -> None:
    with short_directory() as directory, ExitStack() as stack:
        (first,) = servers(directory, "0", stack)
        entry = f"--discv5-bootstrap-node={first.info('MyENR')['MyENR']}"
        old = [first, *servers(directory, "12", stack, entry)]
        options = (*EDGE, f"--entry-node={first.address()}")
        edges = [KernelProcess(directory / name, *options) for name in "ab"]
        start_in_pairs(stack, edges)
        nodes = [stack.enter_context(MapiProcess(kernel.directory, "--mode=edge")) for kernel in edges]
        stack.enter_context(telling(*(node.log for node in nodes)))
        for node in nodes:
            await node.ready()
        async with (
            MessagingClient.connect(nodes[0].run_dir, name="alice") as alice,
            MessagingClient.connect(nodes[1].run_dir, name="bob") as bob,
        ):
            for app in (alice, bob):
                assert await app.subscribe(TOPIC) == {}
            await connected(alice, bob)
            await both_ways(alice, bob, b"first")

            new = servers(directory, "34", stack, entry)
            joined(new, old[2:])
            for kernel in old[:2]:
                kernel.stop(9)
            began = time.monotonic()
            await both_ways(alice, bob, b"right after")
            print(f"two of three service nodes died: sent both ways after {time.monotonic() - began:.1f} s")
            for edge in edges:
                await asyncio.to_thread(eventually, lambda edge=edge: served(edge, 3), 60)
            old[2].stop(9)
            await both_ways(alice, bob, b"by nodes from peer exchange")
            await connected(alice, bob)
            rest = [event for app in (alice, bob) for event in await drain(app, 0.5)]
            assert not [event for event in rest if isinstance(event, MessageReceived)], "once"


async def connected(*apps: MessagingClient) -> None:
    """Until each node has two peers of every kind, and two that push the topic."""
    until = time.monotonic() + 60
    for app in apps:
        while (status := await app.status()).connection != "Connected" or (
            status.topics != {TOPIC: "SUFFICIENTLY_HEALTHY"}
        ):
            assert time.monotonic() < until, status
            await asyncio.sleep(0.1)


async def both_ways(alice: MessagingClient, bob: MessagingClient, mark: bytes) -> None:
    """Each sends; both receive both messages, and both learn that a store has theirs."""
    ids = {app: await app.send(TOPIC, mark + name) for app, name in ((alice, b" A"), (bob, b" B"))}
    for app, request_id in ids.items():
        wanted: set[object] = {mark + b" A", mark + b" B", request_id}
        while wanted:
            event = await app.next_event(60)
            if isinstance(event, MessageReceived):
                wanted.remove(event.payload)
            elif isinstance(event, MessageSent):
                wanted.remove(event.request_id)
