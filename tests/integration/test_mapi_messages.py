"""Two nodes, an app on each: what apps send and receive, through real processes and the public client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from logos_client.events import (
    ConnectionStatusChange,
    ContentTopicHealthChange,
    MessageError,
    MessagePropagated,
    MessageReceived,
)
from logos_client.exceptions import BadRequestError, BusyError, ConflictError, RlnRequiredError, TooLargeError
from logos_client.messaging import MessagingClient
from tests.support.aio import asyncio_test
from tests.support.kernel_process import KernelProcess, short_directory
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


@pytest.fixture(name="servers", scope="module")
def _servers() -> Iterator[list[KernelProcess]]:
    """What serves the edge nodes of this module's tests."""
    with short_directory() as directory, services(directory, ("--store=true",), ()) as started:
        yield started


@pytest.fixture(name="nodes", params=["core", "edge"])
def _nodes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """Two nodes that hear each other, in either mode."""
    if request.param == "core":
        pair = node_pair(tmp_path)
    else:
        pair = edge_pair(tmp_path, request.getfixturevalue("servers"))
    with pair as nodes:
        yield nodes


@asyncio_test(60)
async def test_messages_of_all_sizes_both_ways_once_each_sender_included(nodes: tuple[Node, Node]) -> None:
    async with connected_pair(nodes) as (a, b):
        sizes = [1, 100, 1024, 14 * 1024, 100 * 1024, a.limits.max_payload]
        sent = {}
        for number, size in enumerate(sizes):
            sender = (a, b)[number % 2]
            payload = os.urandom(size)
            sent[payload] = await sender.send(TOPIC, payload, meta=b"m" * (number % 3))
        for app in (a, b):
            received = await collect(app, MessageReceived, len(sizes))
            assert {m.payload for m in received} == set(sent)
            assert all(m.content_topic == TOPIC for m in received)
            assert len({m.message_hash for m in received}) == len(sizes)
        late = [e for app in (a, b) for e in await drain(app, 1.0) if isinstance(e, MessageReceived)]
        assert late == [], "once per hash"


@asyncio_test(60)
async def test_propagated_once_with_the_hash_that_receivers_see(nodes: tuple[Node, Node]) -> None:
    async with connected_pair(nodes) as (a, b):
        request_id = await a.send(TOPIC, b"hello", ephemeral=True)
        propagated = await wait_for(a, MessagePropagated)
        received = await wait_for(b, MessageReceived)
        assert propagated.request_id == request_id
        assert propagated.message_hash == received.message_hash
        assert received.ephemeral
        assert received.timestamp > 0
        assert not [e for e in await drain(a, 0.5) if isinstance(e, MessagePropagated)]


@asyncio_test(60)
async def test_only_subscribed_topics_arrive_and_the_first_send_subscribes(nodes: tuple[Node, Node]) -> None:
    other, third = "/toychat/2/other/proto", "/toychat/2/third/proto"
    async with connected_pair(nodes) as (a, b):
        await b.send(other, b"subscribes b")
        # The send itself does not wait for the subscription; its own message comes back only through it.
        assert (await wait_for(b, MessageReceived)).payload == b"subscribes b"
        assert sorted(await b.subscriptions()) == sorted([TOPIC, other])
        await a.send(third, b"not for b")
        await a.send(other, b"for b")
        await a.send(TOPIC, b"for both")
        got = [m.payload for m in await collect(b, MessageReceived, 2)]
        assert sorted(got) == [b"for b", b"for both"]
        assert await b.unsubscribe([other, third]) == {third: "already unsubscribed"}
        await a.send(other, b"no longer for b")
        await a.send(TOPIC, b"last")
        assert (await wait_for(b, MessageReceived)).payload == b"last"
        await b.send(other, b"b declined this topic")
        assert other not in await b.subscriptions(), "an app that unsubscribed is left alone"


@asyncio_test(60)
async def test_what_cannot_be_sent_is_refused_at_once(tmp_path: Path) -> None:
    with KernelProcess(tmp_path / "a"), MapiProcess(tmp_path / "a") as mapi:
        await mapi.ready()
        async with MessagingClient.connect(mapi.run_dir) as app:
            with pytest.raises(BadRequestError, match="payload"):
                await app.send(TOPIC, b"")
            with pytest.raises(BadRequestError, match="must start with slash"):
                await app.send("nonsense", b"x")
            with pytest.raises(BadRequestError, match="meta"):
                await app.send(TOPIC, b"x", meta=b"m" * 65)
            with pytest.raises(BadRequestError, match="Generation > 0"):
                await app.send("/1/app/1/name/proto", b"x")
            with pytest.raises(TooLargeError, match="Message size exceeded maximum of 153600 bytes"):
                await app.send(TOPIC, bytes(153_600))
            errors = await app.subscribe([TOPIC, "bad", "/a/b/c"])
            assert set(errors) == {"bad", "/a/b/c"}
            assert await app.subscriptions() == [TOPIC]


@asyncio_test(60)
async def test_a_request_id_is_the_idempotency_key(nodes: tuple[Node, Node]) -> None:
    async with connected_pair(nodes, "alice", None) as (a, b):
        request_id = os.urandom(16)
        assert await a.send(TOPIC, b"once", request_id=request_id) == request_id
        assert await a.send(TOPIC, b"once", request_id=request_id) == request_id
        with pytest.raises(ConflictError):
            await a.send(TOPIC, b"another", request_id=request_id)
        assert (await wait_for(b, MessageReceived)).payload == b"once"
        nodes[0].mapi.kill()
        nodes[0].mapi.start()
        await nodes[0].mapi.ready()
        assert await a.send(TOPIC, b"once", request_id=request_id) == request_id, "remembered on disk"
        with pytest.raises(ConflictError):
            await a.send(TOPIC, b"another", request_id=request_id)
        assert not [e for e in await drain(b, 1.0) if isinstance(e, MessageReceived)]


@asyncio_test(90)
async def test_a_send_before_any_peer_is_accepted_and_goes_out_when_one_comes(tmp_path: Path) -> None:
    with KernelProcess(tmp_path / "a") as kernel, MapiProcess(tmp_path / "a") as mapi:
        await mapi.ready()
        async with MessagingClient.connect(mapi.run_dir) as a:
            assert (await a.status()).connection == "Disconnected"
            request_id = await a.send(TOPIC, b"early")
            assert (await wait_for(a, MessageReceived)).payload == b"early", "its own node's apps hear it"
            with KernelProcess(tmp_path / "b") as other, MapiProcess(tmp_path / "b") as second:
                await second.ready()
                async with MessagingClient.connect(second.run_dir) as b:
                    await b.subscribe(TOPIC)  # before they meet: a new interest begins at the head
                    other.dealer().ok("peers.connect", {"addresses": [kernel.address()]})
                    assert (await wait_for(b, MessageReceived, timeout=30)).payload == b"early"
                    assert (await wait_for(a, MessagePropagated)).request_id == request_id
            changed = await wait_for(a, ConnectionStatusChange, lambda e: e.status == "Disconnected")
            assert "relay peers" in changed.reason


@asyncio_test(60)
async def test_a_burst_is_let_in_as_far_as_the_outbox_has_room(tmp_path: Path) -> None:
    with (
        KernelProcess(tmp_path / "k", "--shard=0") as kernel,
        MapiProcess(tmp_path / "a", "--outbox-max-messages=18", kernel_dir=kernel.directory) as mapi,
    ):
        async with MessagingClient.connect(mapi.run_dir) as app:
            sends = (app.send(TOPIC, b"%d" % number) for number in range(30))
            answers = await asyncio.gather(*sends, return_exceptions=True)
            refused = [answer for answer in answers if isinstance(answer, BaseException)]
            assert {type(error) for error in refused} == {BusyError}
            assert len(refused) == 30 - 16, "one app gets 8/9 of the room"
            assert len((await app.pending()).sends) == 16


@asyncio_test(60)
async def test_without_peers_the_window_ends_with_the_known_text(tmp_path: Path) -> None:
    with KernelProcess(tmp_path / "a"), MapiProcess(tmp_path / "a", "--send-window=2") as mapi:
        await mapi.ready()
        async with MessagingClient.connect(mapi.run_dir) as app:
            request_id = await app.send(TOPIC, b"without peers")
            error = await wait_for(app, MessageError)
            assert error.request_id == request_id
            assert "Unable to send within retry time window" in error.text
            assert not [e for e in await drain(app, 0.5) if isinstance(e, MessagePropagated | MessageError)]


@asyncio_test(60)
async def test_a_network_with_rln_refuses_sends_with_a_code(tmp_path: Path) -> None:
    with (
        KernelProcess(tmp_path / "a", "--preset=twn", "--listen-address=127.0.0.1"),
        MapiProcess(tmp_path / "a", "--preset=twn") as mapi,
    ):
        await mapi.ready()
        async with MessagingClient.connect(mapi.run_dir) as app:
            with pytest.raises(RlnRequiredError):
                await app.send(TOPIC, b"x")
            assert await app.subscribe(TOPIC) == {}, "receiving needs no proof"


@asyncio_test(60)
async def test_status_and_topic_health_follow_the_peers(tmp_path: Path) -> None:
    with node_pair(tmp_path) as nodes:
        async with connected_pair(nodes) as (a, _b):
            status = await a.status()
            assert status.connection == "PartiallyConnected"
            nodes[1].kernel.stop()
            gone = await wait_for(a, ConnectionStatusChange, lambda e: e.status == "Disconnected")
            assert gone.reason
            await wait_for(a, ContentTopicHealthChange, lambda e: e.health == "UNHEALTHY")
            nodes[1].kernel.start()
            await wait_for(a, ConnectionStatusChange, lambda e: e.status == "PartiallyConnected", timeout=40)
            await wait_status(a)
