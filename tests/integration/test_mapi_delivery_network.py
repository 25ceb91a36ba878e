"""Delivery in networks that are not as one would like them: stores that come late, services that cannot serve
yet, many shards, many senders at once. Core mode.
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ipc_schema.kernel.events import stream_topic
from ipc_schema.topics import autoshard
from logos_client.events import MessagePropagated, MessageReceived, MessageSent
from logos_client.messaging import MessagingClient
from mapi_proc.peers import STORE
from tests.support.aio import asyncio_test
from tests.support.kernel_process import KernelProcess, eventually
from tests.support.mapi_process import MapiProcess
from tests.support.nodes import (
    TOPIC,
    collect,
    connected_pair,
    drain,
    node_pair,
    telling,
    wait_for,
    wait_status,
)

pytestmark = pytest.mark.integration


@asyncio_test(90)
async def test_a_store_that_comes_five_seconds_after_propagation_still_gets_the_message(
    tmp_path: Path,
) -> None:
    with (
        KernelProcess(tmp_path / "s", "--store=true", "--shard=0") as store,
        node_pair(tmp_path) as nodes,
    ):
        address = store.address()
        async with connected_pair(nodes, "alice", "bob") as (alice, bob):
            request_id = await alice.send(TOPIC, b"not archived yet")
            await wait_for(alice, MessagePropagated)
            assert (await wait_for(bob, MessageReceived)).payload == b"not archived yet"
            await asyncio.sleep(5)  # the age of the message is what this is about
            assert [send.state for send in (await alice.pending()).sends] == ["propagated"]
            nodes[0].kernel.dealer().ok("peers.connect", {"addresses": [address]})
            sent = await wait_for(alice, MessageSent, timeout=40)
            assert sent.request_id == request_id
            rest = [*await drain(alice, 0.5), *await drain(bob, 0.5)]
            assert not [event for event in rest if isinstance(event, MessageReceived | MessageSent)], "once"


@asyncio_test(90)
async def test_what_only_a_store_on_the_other_side_of_a_parted_network_has_comes_when_it_is_back(
    tmp_path: Path,
) -> None:
    """The other store stays connected all the time, and keeps the shard covered."""
    with (
        KernelProcess(tmp_path / "d", "--store=true", "--shard=0") as near,
        KernelProcess(tmp_path / "s", "--store=true", "--shard=0") as far,
    ):
        port = f"--tcp-port={far.address().split('/')[4]}"
        dial = (f"--staticnode={near.address()}", f"--staticnode={far.address()}")
        with (
            KernelProcess(tmp_path / "a", *dial) as kernel,
            MapiProcess(tmp_path / "a") as mapi,
            telling(kernel.log, mapi.log),
        ):
            dealer = kernel.dealer()

            def listed() -> list[Any]:
                return list(dealer.ok("peers.list")["peers"])

            eventually(lambda: [STORE[0] in peer["protocols"] for peer in listed()] == [True, True])
            far.stop(signal.SIGKILL)
            eventually(lambda: len(listed()) == 1)
            await mapi.ready()
            async with MessagingClient.connect(mapi.run_dir) as app:
                assert await app.subscribe(TOPIC) == {}
                await wait_status(app)
                (far.directory / "peers.json").unlink(missing_ok=True)
                far.start()  # at another port, knowing no peer: the network is parted
                body = {"content_topic": TOPIC, "timestamp": time.time_ns()}
                assert far.dealer().code("relay.publish", body, b"from over there") == "no_peers"
                far.stop()
                far.options = (*far.options, port)
                far.start()
                received = await wait_for(app, MessageReceived, timeout=40)
                assert received.payload == b"from over there"


@asyncio_test(90)
async def test_a_lightpush_service_without_peers_is_asked_again_until_it_has_some(tmp_path: Path) -> None:
    with (
        KernelProcess(tmp_path / "s", "--ip-colocation-limit=0", "--lightpush=true") as server,
        KernelProcess(tmp_path / "a", f"--staticnode={server.address()}"),
        MapiProcess(tmp_path / "a") as mapi,
        telling(server.log, mapi.log),
    ):
        await mapi.ready()
        async with MessagingClient.connect(mapi.run_dir) as app:
            request_id = await app.send(TOPIC, b"over there, when there is a there")
            until = time.monotonic() + 20
            while not [s for s in (await app.pending()).sends if s.state == "retry" and s.attempts >= 2]:
                assert time.monotonic() < until, await app.pending()
                await asyncio.sleep(0.05)
            with KernelProcess(tmp_path / "t", "--shard=0", f"--staticnode={server.address()}") as third:
                arrived = third.subscriber(stream_topic(0, 0))
                propagated = await wait_for(app, MessagePropagated, timeout=30)
                assert propagated.request_id == request_id
                event, payload = await asyncio.to_thread(arrived.message)
                assert event.message_hash == propagated.message_hash
                assert payload == b"over there, when there is a there"


@asyncio_test(110)
async def test_a_hundred_topics_over_eight_shards(tmp_path: Path) -> None:
    network = "--num-shards-in-network=8"
    topics = [f"/app-{number % 50}/1/topic-{number}/proto" for number in range(100)]
    assert {autoshard(topic, 8) for topic in topics} == set(range(8))
    with KernelProcess(tmp_path / "s", network, "--store=true") as store:
        dial = f"--staticnode={store.address()}"
        with (
            KernelProcess(tmp_path / "a", network, dial) as first,
            KernelProcess(tmp_path / "b", network, dial) as second,
            MapiProcess(tmp_path / "a") as mapi_a,
            MapiProcess(tmp_path / "b") as mapi_b,
            telling(store.log, first.log, second.log, mapi_a.log, mapi_b.log),
        ):
            await mapi_a.ready()
            await mapi_b.ready()
            async with (
                MessagingClient.connect(mapi_a.run_dir, name="alice") as alice,
                MessagingClient.connect(mapi_b.run_dir, name="bob") as bob,
            ):
                for app in (alice, bob):
                    assert await app.subscribe(topics) == {}
                for app in (alice, bob):
                    until = time.monotonic() + 30
                    while "UNHEALTHY" in (status := await app.status()).topics.values():
                        assert time.monotonic() < until, status
                        await asyncio.sleep(0.1)
                    assert len(status.topics) == 100
                ids = await asyncio.gather(*(alice.send(topic, topic.encode()) for topic in topics))
                got = await collect(bob, MessageReceived, 100)
                assert sorted(event.content_topic for event in got) == sorted(topics)
                assert all(event.payload == event.content_topic.encode() for event in got)
                sent = await collect(alice, MessageSent, 100)
                assert {event.request_id for event in sent} == set(ids)
                half = topics[::2]
                assert await bob.unsubscribe(half) == {}
                await asyncio.gather(*(alice.send(topic, b"again") for topic in topics))
                again = await collect(bob, MessageReceived, 50)
                assert sorted(event.content_topic for event in again) == sorted(set(topics) - set(half))
                rest = [event for event in await drain(bob, 0.5) if isinstance(event, MessageReceived)]
                assert rest == []


@asyncio_test(60)
async def test_concurrent_sends_on_one_new_topic(tmp_path: Path) -> None:
    new = "/toychat/2/never-seen/proto"
    with node_pair(tmp_path) as nodes:
        async with connected_pair(nodes) as (alice, bob):
            payloads = [b"%03d" % number for number in range(60)]
            ids = await asyncio.gather(*(alice.send(new, payload) for payload in payloads))
            assert len(set(ids)) == 60
            assert (await alice.subscriptions()).count(new) == 1
            own: list[bytes] = []
            out: set[bytes] = set()
            while len(own) < 60 or len(out) < 60:
                event = await alice.next_event(20)
                if isinstance(event, MessageReceived):
                    own.append(event.payload)
                elif isinstance(event, MessagePropagated):
                    out.add(event.request_id)
            assert sorted(own) == payloads, "what it sends it is subscribed to"
            assert out == set(ids)
            assert await bob.subscribe(new) == {}
            await alice.send(new, b"now with bob")
            await wait_for(bob, MessageReceived, lambda event: event.payload == b"now with bob")
