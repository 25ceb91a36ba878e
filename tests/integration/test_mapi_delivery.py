"""Delivery with a store in the network: confirmation, catch-up, history; real processes throughout."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from logos_client.events import (
    LinkRestored,
    MessageCancelled,
    MessagePropagated,
    MessageQueued,
    MessageReceived,
    MessageSent,
    MessagesMissed,
    MessageUnconfirmed,
)
from logos_client.messaging import MessagingClient
from tests.support.aio import asyncio_test
from tests.support.kernel_process import KernelProcess
from tests.support.mapi_process import MapiProcess
from tests.support.nodes import (
    TOPIC,
    Node,
    collect,
    connected_pair,
    drain,
    edge_pair,
    node_pair,
    services,
    wait_for,
    wait_status,
)

pytestmark = pytest.mark.integration

in_both_modes = pytest.mark.parametrize("mode", ["core", "edge"])


@contextmanager
def pair_with_store(directory: Path, mode: str) -> Iterator[tuple[Node, Node, KernelProcess]]:
    """Two nodes with apps, and between them a kernel that archives. To edge nodes it gives all services, and
    so does a second one.
    """
    if mode == "edge":
        with (
            services(directory, ("--store=true",), ()) as served_by,
            edge_pair(directory, served_by) as (a, b),
        ):
            yield a, b, served_by[0]
        return
    with KernelProcess(directory / "s", "--store=true", "--shard=0") as store:
        dial = f"--staticnode={store.address()}"
        with (
            KernelProcess(directory / "a", dial) as first,
            KernelProcess(directory / "b", dial) as second,
            MapiProcess(directory / "a") as mapi_a,
            MapiProcess(directory / "b") as mapi_b,
        ):
            yield Node(directory / "a", first, mapi_a), Node(directory / "b", second, mapi_b), store


@in_both_modes
@asyncio_test(90)
async def test_sent_means_that_a_store_has_it_and_follows_propagated(tmp_path: Path, mode: str) -> None:
    with pair_with_store(tmp_path, mode) as (a, b, _store):
        async with connected_pair((a, b), "alice", "bob") as (alice, _bob):
            request_id = await alice.send(TOPIC, b"kept")
            passing = await alice.send(TOPIC, b"passing", ephemeral=True)
            fates: list[MessagePropagated | MessageSent | MessageUnconfirmed] = []
            while sum(not isinstance(e, MessagePropagated) for e in fates) < 2:
                fates.append(await wait_for(alice, MessagePropagated | MessageSent | MessageUnconfirmed))  # type: ignore[arg-type]
            kept = [type(e) for e in fates if e.request_id == request_id]
            assert kept == [MessagePropagated, MessageSent]
            ephemeral = [e for e in fates if e.request_id == passing]
            assert [event.kind for event in ephemeral] == ["message_propagated", "message_unconfirmed"]
            last = ephemeral[1]
            assert isinstance(last, MessageUnconfirmed)
            assert "ephemeral" in last.reason
            assert (await alice.pending()).total == 0


@in_both_modes
@asyncio_test(120)
async def test_what_was_archived_while_the_kernel_was_away_arrives_once(tmp_path: Path, mode: str) -> None:
    with pair_with_store(tmp_path, mode) as (a, b, _store):
        async with connected_pair((a, b), "alice", "bob") as (alice, bob):
            await alice.send(TOPIC, b"before")
            assert (await wait_for(bob, MessageReceived)).payload == b"before"
            b.kernel.stop(9)
            for number in range(30):
                await alice.send(TOPIC, b"missed-%d" % number)
            await collect(alice, MessageSent, 31, timeout=20)
            await asyncio.to_thread(b.kernel.start)
            await wait_status(bob)
            got = await collect(bob, MessageReceived, 30, timeout=20)
            assert sorted(m.payload for m in got) == sorted(b"missed-%d" % n for n in range(30))
            await alice.send(TOPIC, b"after")
            assert (await wait_for(bob, MessageReceived)).payload == b"after"
            rest = await drain(bob, 1.5)
            assert not [e for e in rest if isinstance(e, MessageReceived)], "once"
            assert not [e for e in rest if isinstance(e, MessagesMissed)], "what is recovered is not missed"


@in_both_modes
@asyncio_test(120)
async def test_mapi_and_kernel_away_together_lose_nothing_that_a_store_has(tmp_path: Path, mode: str) -> None:
    with pair_with_store(tmp_path, mode) as (a, b, _store):
        async with connected_pair((a, b), "alice", "bob") as (alice, bob):
            await alice.send(TOPIC, b"before")
            await wait_for(bob, MessageReceived)
            await bob.ack()
            b.mapi.kill()
            b.kernel.stop(9)
            for number in range(10):
                await alice.send(TOPIC, b"missed-%d" % number)
            await collect(alice, MessageSent, 11, timeout=20)
            b.mapi.start()
            await asyncio.to_thread(b.kernel.start)
            # From a store, or from a filter peer that still had them queued for this node.
            got = await collect(bob, MessageReceived, 10, timeout=30)
            assert sorted(m.payload for m in got) == sorted(b"missed-%d" % n for n in range(10))


@in_both_modes
@asyncio_test(120)
async def test_history_on_subscribe_once_per_app(tmp_path: Path, mode: str) -> None:
    with pair_with_store(tmp_path, mode) as (a, b, _store):
        async with connected_pair((a, b), "alice", "bob") as (alice, bob):
            for number in range(5):
                await alice.send(TOPIC, b"early-%d" % number)
            assert {m.source for m in await collect(bob, MessageReceived, 5)} == {"live"}
            await collect(alice, MessageSent, 5, timeout=15)
            early = {b"early-%d" % number for number in range(5)}
            async with MessagingClient.connect(b.run, name="carol") as carol:
                assert await carol.subscribe(TOPIC, history=600) == {}
                got = await collect(carol, MessageReceived, 5)
                assert ({m.payload for m in got}, {m.source for m in got}) == (early, {"history"})
                assert await carol.subscribe(TOPIC, history=600) == {}
                await bob.unsubscribe(TOPIC)
                await alice.send(TOPIC, b"while bob was away")
                assert (await wait_for(carol, MessageReceived)).payload == b"while bob was away"
                await wait_for(alice, MessageSent)
                assert await bob.subscribe(TOPIC, since_last=True) == {}
                late = await wait_for(bob, MessageReceived)
                assert (late.payload, late.source) == (b"while bob was away", "history")
                assert await bob.subscribe(TOPIC, history=600) == {}
                for app in (bob, carol):
                    again = [e for e in await drain(app, 1.5) if isinstance(e, MessageReceived)]
                    assert again == [], "no app gets a message twice"


@asyncio_test(60)
async def test_a_send_can_be_cancelled_before_its_first_attempt(tmp_path: Path) -> None:
    with node_pair(tmp_path, mapi_options=("--send-rate-limit=1/1h",)) as nodes:
        async with connected_pair(nodes, "a", "b") as (a, _b):
            first = await a.send(TOPIC, b"goes")
            await wait_for(a, MessagePropagated)
            second = await a.send(TOPIC, b"waits")
            assert (await wait_for(a, MessageQueued)).request_id == second
            nodes[0].mapi.kill()
            nodes[0].mapi.start()
            await wait_for(a, LinkRestored)
            third = await a.send(TOPIC, b"waits too")
            # Reported once, also across a restart of the Messaging API.
            assert (await wait_for(a, MessageQueued)).request_id == third
            pending = await a.pending()
            held = {send.request_id: (send.state, send.cause) for send in pending.sends}
            assert held[second][0] == "parked"
            assert held[third] == ("parked", "held back by the rate limit until a later epoch")
            assert not await a.cancel(first)
            assert await a.cancel(second)
            assert (await wait_for(a, MessageCancelled)).request_id == second
            assert second not in {send.request_id for send in (await a.pending()).sends}
            nodes[0].mapi.kill()
            nodes[0].mapi.start()
            await wait_for(a, LinkRestored)
            found = {one: await a.find_send(one) for one in (second, third, os.urandom(16))}
            assert [send and send.state for send in found.values()] == ["cancelled", "parked", None]
