"""An edge node among service nodes that die and come: two peers by filter, two by lightpush, nothing lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ipc_schema.kernel.events import stream_topic
from ipc_schema.mapi import events
from logos_client.events import (
    ConnectionStatusChange,
    ContentTopicHealthChange,
    MessagePropagated,
    MessageReceived,
    MessageSent,
    MessagesMissed,
)
from logos_client.messaging import MessagingClient
from mapi_proc.api import MessagingApi
from tests.support.aio import asyncio_test
from tests.support.kernel_process import KernelProcess, short_directory
from tests.support.mapi_process import MapiProcess
from tests.support.nodes import TOPIC, collect, drain, services, wait_for

pytestmark = pytest.mark.integration

OTHER = "/toychat/2/other/proto"


async def until_held(mapi: MapiProcess, check: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    """Wait until the peers that push shard 0, each with its number of topics, are such."""
    until = time.monotonic() + 30
    while True:
        held: dict[str, int] = (await mapi.health())["filter"]["held"].get("0", {})
        if check(held):
            return held
        assert time.monotonic() < until, held
        await asyncio.sleep(0.05)


def publish(kernel: KernelProcess, payload: bytes) -> None:
    """Publish at a kernel; it need not have a relay peer."""
    kernel.dealer().ask("relay.publish", {"content_topic": TOPIC}, payload)


@asyncio_test(120)
async def test_a_service_node_that_dies_is_replaced_by_the_third(tmp_path: Path) -> None:
    with services(tmp_path, ("--store=true",), ("--store=true",), ("--store=true",)) as served_by:
        ids = {kernel.info("MyPeerId")["MyPeerId"]: kernel for kernel in served_by}
        dial = [f"--staticnode={kernel.address()}" for kernel in served_by]
        with (
            KernelProcess(tmp_path / "e", "--relay=false", *dial) as edge,
            MapiProcess(tmp_path / "e", "--mode=edge") as mapi,
        ):
            await mapi.ready()
            async with MessagingClient.connect(mapi.run_dir) as app:
                assert await app.subscribe([TOPIC, OTHER]) == {}
                first = await until_held(mapi, lambda held: list(held.values()) == [2, 2])
                assert (await app.status()).topics == dict.fromkeys([TOPIC, OTHER], "SUFFICIENTLY_HEALTHY")

                gone = next(iter(first))
                ids[gone].stop(9)
                second = await until_held(mapi, lambda held: gone not in held and len(held) == 2)
                assert set(second) - set(first), "the third one took its place"
                assert (await app.status()).connection == "Connected"
                request_id = await app.send(TOPIC, b"after the first died")
                assert (await wait_for(app, MessageReceived)).payload == b"after the first died"
                assert (await wait_for(app, MessageSent)).request_id == request_id

                await app.unsubscribe(OTHER)
                await until_held(mapi, lambda held: list(held.values()) == [1, 1])
                for peer in second:
                    metrics = ids[peer].dealer().ok("node.metrics")["metrics"]
                    criteria = {name: value for name, _, value in metrics}["logos_delivery_filter_criteria"]
                    assert criteria == 1, "taken back on the wire"

                ids[next(iter(second))].stop(9)
                left = await until_held(mapi, lambda held: len(held) == 1)
                changed = await wait_for(app, ConnectionStatusChange)
                assert (changed.status, "1 of 2 filter peers" in changed.reason) == (
                    "PartiallyConnected",
                    True,
                )
                await wait_for(app, ContentTopicHealthChange, lambda e: e.health == "MINIMALLY_HEALTHY")

                back = ids[gone].start().address()  # on another port
                for kernel in (edge, *(ids[peer] for peer in left)):
                    kernel.dealer().ok("peers.connect", {"addresses": [back]})
                await app.send(TOPIC, b"before the first is back")
                held = await until_held(mapi, lambda held: len(held) == 2)
                assert set(held) == {gone, *left}
                missing: set[type] = {MessagePropagated, ConnectionStatusChange}  # in any order
                while missing:
                    event = await app.next_event(30)
                    if getattr(event, "status", "Connected") == "Connected":
                        missing.discard(type(event))


@asyncio_test(120)
async def test_what_was_archived_while_no_peer_pushed_arrives_once(tmp_path: Path) -> None:
    # The second one keeps messages, and gives no other service.
    with services(tmp_path, (), ("--store=true", "--filter=false", "--lightpush=false")) as (server, archive):
        dial = [f"--staticnode={kernel.address()}" for kernel in (server, archive)]
        with (
            KernelProcess(tmp_path / "e", "--relay=false", *dial) as edge,
            MapiProcess(tmp_path / "e", "--mode=edge") as mapi,
        ):
            await mapi.ready()
            async with MessagingClient.connect(mapi.run_dir, name="app") as app:
                assert await app.subscribe(TOPIC) == {}
                await until_held(mapi, lambda held: len(held) == 1)
                publish(archive, b"before")
                assert (await wait_for(app, MessageReceived)).payload == b"before"
                assert (await app.status()).connection == "PartiallyConnected"
                await drain(app, 0.3)  # else this and what follows would be merged into nothing

                server.stop(9)
                lost = await wait_for(app, ConnectionStatusChange, lambda e: e.status == "Disconnected")
                assert lost.reason == "no filter or lightpush peers"
                await wait_for(app, ContentTopicHealthChange, lambda e: e.health == "UNHEALTHY")
                for number in range(30):
                    publish(archive, b"missed-%d" % number)

                request_id = await app.send(TOPIC, b"own")
                with KernelProcess(
                    tmp_path / "n",
                    "--shard=0",
                    "--ip-colocation-limit=0",
                    f"--staticnode={archive.address()}",
                ) as new:
                    edge.dealer().ok("peers.connect", {"addresses": [new.address()]})
                    got = await collect(app, MessageReceived, 31, timeout=20)
                    assert {m.payload for m in got} == {b"own", *(b"missed-%d" % n for n in range(30))}
                    await until_held(mapi, lambda held: list(held) == [new.info("MyPeerId")["MyPeerId"]])
                    publish(archive, b"after")
                    assert (await wait_for(app, MessageReceived)).payload == b"after"
                    assert (await wait_for(app, MessageSent)).request_id == request_id
                    rest = await drain(app, 1.5)
                    assert not [e for e in rest if isinstance(e, MessageReceived)], "once"
                    assert not [e for e in rest if isinstance(e, MessagesMissed)], (
                        "what is recovered is not missed"
                    )


@asyncio_test(60)
async def test_relay_without_peers_on_the_shard_fails_over_to_lightpush_at_once(tmp_path: Path) -> None:
    # The server relays for others on the shard without being on it.
    with (
        KernelProcess(tmp_path / "s", "--ip-colocation-limit=0") as server,
        KernelProcess(tmp_path / "t", "--shard=0", f"--staticnode={server.address()}") as third,
        KernelProcess(tmp_path / "a", f"--staticnode={server.address()}"),
        MapiProcess(tmp_path / "a") as mapi,
    ):
        await mapi.ready()
        arrived = third.subscriber(stream_topic(0, 0))
        arrived.heartbeat()
        async with MessagingClient.connect(mapi.run_dir) as app:
            await app.send(TOPIC, b"over there")
            received = await wait_for(app, MessageReceived)  # its own node's apps hear it first
            propagated = await wait_for(app, MessagePropagated)
            assert received.message_hash == propagated.message_hash
            event, payload = await asyncio.to_thread(arrived.message)
            assert (event.message_hash, payload) == (propagated.message_hash, b"over there")


@asyncio_test(60)
async def test_an_edge_node_of_its_own_is_made_from_the_mode_and_named_service_nodes() -> None:
    with short_directory() as directory, services(directory, ("--store=true",), ()) as (server, _other):
        overrides: dict[str, object] = {"tcp-port": 0}
        overrides |= dict.fromkeys(("filternode", "lightpushnode", "storenode"), server.address())
        api = MessagingApi(mode="edge", overrides=overrides, data_dir=directory / "n")
        async with api:
            assert await api.subscribe([TOPIC]) == {}
            states = {protocol.name: protocol.state for protocol in (await api.kernel.health()).protocols}
            assert (states["Relay"], states["Lightpush"], states["Filter"]) == ("NOT_MOUNTED",) * 3
            request_id = await api.send(TOPIC, b"by lightpush, and back by filter")
            reported: list[type] = []
            async for event, payload in api.events():
                reported.append(type(event))
                if isinstance(event, events.MessageReceived):
                    assert payload == b"by lightpush, and back by filter"
                if isinstance(event, events.MessageSent):
                    assert event.request_id == request_id
                    break
            assert {events.MessagePropagated, events.MessageReceived} <= set(reported)
