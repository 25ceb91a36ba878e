"""Many apps on one Messaging API: names, takeover, credit, acks, limits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import zmq

from ipc_schema.errors import IpcError
from ipc_schema.frames import encode_request
from ipc_schema.mapi.events import MessageReceived, TakenOver
from ipc_schema.paths import mapi_endpoints
from logos_client.events import ConnectionStatusChange
from logos_client.events import TakenOver as TakenOverEvent
from logos_client.exceptions import BadRequestError, ConflictError
from logos_client.messaging import MessagingClient
from tests.support.aio import asyncio_test
from tests.support.kernel_process import Context, eventually, short_directory
from tests.support.mapi_process import AppDealer
from tests.support.nodes import TOPIC, Node, single_node
from tests.support.recorder import Recorder

pytestmark = pytest.mark.integration

MAX_APPS = 60
MAX_TOPICS = 20
HELLO: dict[str, object] = {"kind": "app", "protocol": [1, 1]}


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with (
        short_directory() as path,
        single_node(
            path, mapi_options=(f"--max-apps={MAX_APPS}", f"--max-topics-per-app={MAX_TOPICS}")
        ) as node,
    ):
        asyncio.run(node.mapi.ready())
        yield node
        assert "Traceback" not in node.mapi.logged()


@pytest.fixture
def sockets(node: Node) -> Iterator[list[AppDealer]]:
    """Plain connections to the apps' socket."""
    context: Context = zmq.Context()
    made = [AppDealer(context, mapi_endpoints(node.run).apps) for _ in range(3)]
    yield made
    for dealer in made:
        dealer.close()
    context.term()


def publish(node: Node, payload: bytes, topic: str = TOPIC) -> None:
    """As if from the network: at the node's kernel, which has no peers."""
    dealer = node.kernel.dealer()
    assert dealer.code("relay.publish", {"content_topic": topic}, payload) == "no_peers"
    dealer.close()


async def empty(node: Node) -> dict[str, Any]:
    """Wait until no app is connected (one that is gone is noticed with a heartbeat); MAPI's health then."""
    async with asyncio.timeout(10):
        while (health := await node.mapi.health())["apps"]["connected"]:
            await asyncio.sleep(0.05)
    return health


@asyncio_test()
async def test_a_second_instance_of_a_name_is_refused_or_takes_over(node: Node) -> None:
    async with Recorder(node.directory, "twin", ack_every=1) as first:
        await first.subscribed(TOPIC, mesh=False)
        publish(node, b"for the first")
        await first.until(lambda: first.payloads == [b"for the first"])
        async with Recorder(node.directory, "twin") as refused:
            with pytest.raises(IpcError) as error:
                await refused.connection.wait_ready(8)
            assert error.value.code == "conflict"
        assert (await first.ask("ping")) == {}, "the first one never noticed"
        async with Recorder(node.directory, "twin", takeover=True) as second:
            await second.until(lambda: second.hellos)
            assert second.hellos[0].stream.id == first.hellos[0].stream.id
            assert second.hellos[0].subscriptions == (TOPIC,)
            await first.until(lambda: isinstance(first.events[-1][0], TakenOver))
            publish(node, b"for the second")
            await second.until(lambda: second.payloads == [b"for the second"])
            assert isinstance(first.events[-1][0], TakenOver), "and nothing after it"


@asyncio_test()
async def test_the_public_client_hears_of_a_takeover(node: Node) -> None:
    async with (
        MessagingClient.connect(node.run, name="singer") as first,
        MessagingClient.connect(node.run, name="singer", takeover=True) as second,
    ):
        heard = [type(event) async for event in first]
        assert heard[-1] is TakenOverEvent
        assert set(heard[:-1]) <= {ConnectionStatusChange}, "the status that an app begins with"
        with pytest.raises(ConflictError):
            await first.subscribe(TOPIC)
        await second.subscribe(TOPIC)


def test_of_two_hellos_at_once_one_gets_the_name(node: Node, sockets: list[AppDealer]) -> None:
    first, second, _ = sockets
    for number in range(20):
        body = HELLO | {"name": f"race-{number % 3}"}
        frames = encode_request(bytes(16), "hello", body)
        for dealer in (first, second):
            dealer.socket.send_multipart(frames)
        answers = [dealer.receive().error for dealer in (first, second)]
        assert sorted(str(error.code) if error else "ok" for error in answers) == ["conflict", "ok"]
        winner = (first, second)[answers[0] is not None]
        winner.ok("goodbye")
        eventually(lambda: first.ask("ping").error and second.ask("ping").error)
    for number in range(3):
        assert first.ok("hello", HELLO | {"name": "cleaner"})["app"] == "cleaner"
        first.ok("forget", {"name": f"race-{number}"})


def test_hello_again_continues_the_same_app(node: Node, sockets: list[AppDealer]) -> None:
    app = sockets[0]
    for body in (HELLO, HELLO | {"name": "again"}):
        before = app.ok("hello", body)
        assert app.ok("subscribe", {"topics": [TOPIC]}) == {"errors": {}}
        after = app.ok("hello", body)
        assert after["stream"]["id"] == before["stream"]["id"]
        assert after["subscriptions"] == [TOPIC]
    assert app.ok("hello", HELLO)["subscriptions"] == [], "another app from here on"
    other = sockets[1]
    other.ok("hello", HELLO | {"name": "again"})
    other.ok("goodbye")
    for _ in range(2):  # two at once, answered in order, one app at the end
        app.socket.send_multipart(encode_request(bytes(16), "hello", HELLO))
    assert [app.receive().error for _ in range(2)] == [None, None]
    app.ok("goodbye")


@asyncio_test()
async def test_forget(node: Node) -> None:
    async with Recorder(node.directory, "mayfly") as app, Recorder(node.directory) as other:
        await app.subscribed(TOPIC, mesh=False)
        first = app.hellos[0].stream.id
        with pytest.raises(IpcError) as error:
            await other.ask("forget", name="mayfly")
        assert error.value.code == "conflict"
        await app.ask("goodbye")
        await other.ask("forget", name="mayfly")
        with pytest.raises(IpcError) as error:
            await other.ask("forget", name="mayfly")
        assert error.value.code == "bad_request"
    async with Recorder(node.directory, "mayfly") as app:
        await app.until(lambda: app.hellos)
        assert app.hellos[0].stream.id != first
        assert app.hellos[0].subscriptions == ()


@asyncio_test()
async def test_without_credit_nothing_comes_and_nothing_is_lost(node: Node) -> None:
    topic = "/credit/1/test/proto"
    for name in (None, "miser"):
        async with Recorder(node.directory, name, credit=0) as app:
            await app.subscribed(topic, mesh=False)
            for number in range(50):
                publish(node, b"%d %s" % (number, os.urandom(8)), topic)
            beats = app.heartbeats
            await app.until(lambda: app.heartbeats > beats + 1)  # noqa: B023
            assert app.events == []
            total = 1
            while len(app.payloads) < 50:  # each byte of credit too many lets one event through
                count = len(app.events)
                await app.ask("credit", total=total)
                await app.until(lambda: len(app.events) > count)  # noqa: B023
                assert len(app.events) == count + 1
                total += app.costs[-1]
            assert [int(payload.split()[0]) for payload in app.payloads] == list(range(50))
            assert [event.seq for event, _ in app.events] == list(range(1, len(app.events) + 1))


@asyncio_test()
async def test_acks_are_cumulative_and_decide_where_delivery_starts(node: Node) -> None:
    topic = "/ack/1/test/proto"
    async with Recorder(node.directory, "reader") as app:
        await app.subscribed(topic, mesh=False)
        for number in range(10):
            publish(node, b"%d" % number + os.urandom(8), topic)
        await app.until(lambda: len(app.payloads) == 10)
        stream, last = app.events[0][0].stream_id, app.events[-1][0].seq
        middle = next(event.seq for event, payload in app.events if payload[:1] == b"5")
        assert await app.ask("ack", stream=stream, seq=middle) == {"acked": middle}
        assert await app.ask("ack", stream=stream, seq=1) == {"acked": middle}, "never back"
        with pytest.raises(IpcError) as error:
            await app.ask("ack", stream=stream, seq=last + 1)
        assert error.value.code == "bad_request"
        with pytest.raises(IpcError) as error:
            await app.ask("ack", stream=bytes(16), seq=1)
        assert error.value.code == "conflict"
        await app.ask("goodbye")
    publish(node, b"while away", topic)
    async with Recorder(node.directory, "reader") as app:
        await app.until(lambda: len(app.payloads) == 5)
        assert app.events[0][0].seq == middle + 1
        assert [payload[:1] for payload in app.payloads[:4]] == [b"6", b"7", b"8", b"9"]
        assert app.payloads[4] == b"while away"


@asyncio_test(60)
async def test_many_apps_on_one_topic_all_hear_all(node: Node) -> None:
    topic = "/crowd/1/test/proto"
    async with AsyncExitStack() as stack:
        crowd = [
            await stack.enter_async_context(Recorder(node.directory, f"crowd-{n}" if n % 4 == 0 else None))
            for n in range(40)
        ]
        await asyncio.gather(*(app.subscribed(topic, mesh=False) for app in crowd))
        payloads = [b"%d" % number + os.urandom(1000) for number in range(25)]
        for payload in payloads:
            publish(node, payload, topic)
        for app in crowd:
            await app.until(lambda: len(app.payloads) == len(payloads))  # noqa: B023
            assert app.payloads == payloads
        for app in crowd[::4]:
            await app.ask("goodbye")
        for n in range(0, 40, 4):
            await crowd[1].ask("forget", name=f"crowd-{n}")
        assert len(crowd[1].payloads) == len(payloads)


@asyncio_test()
async def test_too_many_apps_are_busy_until_one_leaves(node: Node, sockets: list[AppDealer]) -> None:
    known = (await empty(node))["apps"]["known"]
    async with AsyncExitStack() as stack:
        for _ in range(MAX_APPS - known):
            app = await stack.enter_async_context(Recorder(node.directory))
            await app.connection.wait_ready(10)
        assert sockets[0].code("hello", HELLO) == "busy"
        assert sockets[0].code("hello", HELLO | {"name": "late"}) == "busy"
        await app.ask("goodbye")
        sockets[0].ok("hello", HELLO)
        sockets[0].ok("goodbye")
    assert (await empty(node))["apps"]["known"] == known


@asyncio_test()
async def test_too_many_topics(node: Node) -> None:
    async with MessagingClient.connect(node.run) as app:
        topics = [f"/topics/1/{n}/proto" for n in range(MAX_TOPICS + 2)]
        errors = await app.subscribe(topics)
        assert set(errors) == set(topics[MAX_TOPICS:])
        assert all(str(MAX_TOPICS) in text for text in errors.values())
        assert await app.unsubscribe(topics[0]) == {}
        assert await app.subscribe(topics[-1]) == {}


@asyncio_test()
async def test_requests_in_flight_are_bounded(node: Node) -> None:
    """They all wait for a kernel that does not answer: the one above the limit is refused at once."""
    assert node.kernel.process is not None
    async with Recorder(node.directory) as app, Recorder(node.directory) as other:
        await other.until(lambda: other.hellos)
        await app.until(lambda: app.hellos)
        limit = app.hellos[0].limits.in_flight
        app.connection._turnstile.resize(10_000)  # a client that does not care
        node.kernel.process.send_signal(signal.SIGSTOP)
        try:
            asked = [app.ask("node.info", 1.0) for _ in range(limit + 20)]
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert await other.ask("ping") == {}
        finally:
            node.kernel.process.send_signal(signal.SIGCONT)
        codes = [str(error.code) for error in results if isinstance(error, IpcError)]
        assert codes.count("busy") == 20
        assert codes.count("deadline_exceeded") == limit
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(IpcError):
                    await app.ask("node.info")
                    break


@asyncio_test()
async def test_an_ephemeral_app_ends_with_its_connection(node: Node) -> None:
    topic = "/ephemeral/1/test/proto"
    before = await empty(node)
    async with Recorder(node.directory) as app:
        await app.subscribed(topic, mesh=False)
        during = await node.mapi.health()
        assert during["topics"] == before["topics"] + 1
        assert not app.hellos[0].durable
    after = await empty(node)
    assert (after["topics"], after["apps"]) == (before["topics"], before["apps"])


@asyncio_test()
async def test_a_message_is_received_once_per_hash_even_if_another_peer_repeats_it(node: Node) -> None:
    topic = "/once/1/test/proto"
    async with Recorder(node.directory) as app:
        await app.subscribed(topic, mesh=False)
        dealer = node.kernel.dealer()
        body = {"content_topic": topic, "timestamp": 1_700_000_000_000_000_000}
        for force in (False, False, True, True):
            dealer.ask("relay.publish", body | {"force": force}, b"the same")
        dealer.ask("relay.publish", body | {"timestamp": body["timestamp"] + 1}, b"the same")  # type: ignore[operator]
        publish(node, b"end", topic)
        await app.until(lambda: app.payloads[-1:] == [b"end"])
        assert app.payloads == [b"the same", b"the same", b"end"]
        hashes = [event.message_hash for event, _ in app.events if isinstance(event, MessageReceived)]
        assert len(set(hashes)) == 3


@asyncio_test()
async def test_the_sends_of_another_app_are_seen_without_its_connection_and_without_making_it(
    node: Node,
) -> None:
    apps = mapi_endpoints(node.run).apps
    await empty(node)
    async with MessagingClient.connect(apps) as tool:
        known = (await node.mapi.health())["apps"]["known"]
        with pytest.raises(BadRequestError, match="no app is named unknown"):
            await tool.pending(name="unknown")
        with pytest.raises(BadRequestError, match="no app is named unknown"):
            await tool.cancel(os.urandom(16), name="unknown")
        with pytest.raises(BadRequestError):
            await tool.pending(name="not a name")
        assert (await node.mapi.health())["apps"]["known"] == known
        async with MessagingClient.connect(apps, name="sender") as sender:
            request_id = await sender.send(TOPIC, b"without a receiver yet")
            async with asyncio.timeout(10):
                # No peer is there: it stays without a fate.
                while not any(send.attempts for send in (await tool.pending(name="sender")).sends):
                    await asyncio.sleep(0.02)
            for seen in (
                await tool.pending(name="sender"),
                await sender.pending(),
            ):  # it keeps its connection
                assert [send.request_id for send in seen.sends] == [request_id]
            assert not (await tool.pending()).sends, "of the tool itself"
            assert await tool.find_send(request_id) is None, "of the tool itself"
            found = await tool.find_send(request_id, name="sender")
            assert found is not None
            assert (found.request_id, found.content_topic) == (request_id, TOPIC)
            assert found.state in ("attempted", "retry")
            assert not await tool.cancel(request_id, name="sender"), "it was attempted"
        assert [send.request_id for send in (await tool.pending(name="sender")).sends] == [request_id]


def test_many_are_sent_with_one_request(node: Node, sockets: list[AppDealer]) -> None:
    dealer = sockets[0]
    assert "send_many" in dealer.ok("hello", HELLO)["features"]
    good = [os.urandom(16), TOPIC, b"m", False, 0]
    timed = [os.urandom(16), TOPIC, b"", True, time.time_ns(), "an element of a later version"]
    rows = [good, timed, [os.urandom(16), "no topic", b"", False, 0], good, [*good[:2], b"other", False, 0]]
    blobs = (b"one", b"two", b"three", b"one", b"one")
    results = dealer.ok("send_many", {"sends": rows}, *blobs)["results"]
    assert [row[0] for row in results] == ["", "", "bad_request", "", "conflict"]
    assert [row[3] for row in results] == [False, False, False, True, False]
    assert "no topic" in results[2][1]
    pending = {one["request_id"]: one for one in dealer.ok("pending")["sends"]}
    assert set(pending) == {good[0], timed[0]}
    assert pending[timed[0]]["timestamp"] == timed[4]
    # The same again, each as a send of its own: accepted before.
    body = {"request_id": good[0], "content_topic": TOPIC, "meta": b"m"}
    assert dealer.ok("send", body, b"one")["repeated"]


def test_many_that_cannot_be_sent_together(node: Node, sockets: list[AppDealer]) -> None:
    dealer = sockets[0]
    dealer.ok("hello", HELLO)
    good = [os.urandom(16), TOPIC, b"", False, 0]
    for rows, blobs in (
        ([good], []),
        ([good], [b"a", b"b"]),
        ([good, good[:-1]], [b"a", b"b"]),
        ([good, [b"short", *good[1:]]], [b"a", b"b"]),
        ([good, [*good[:2], bytes(65), False, 0]], [b"a", b"b"]),
        ([good, [*good[:4], -1]], [b"a", b"b"]),
        ([good, 1], [b"a", b"b"]),
        (None, [b"a"]),
    ):
        assert dealer.code("send_many", {"sends": rows}, *blobs) == "bad_request"
    assert dealer.code("send_many", {"sends": 9 * [good]}, *9 * [bytes(120_000)]) == "too_large"
    assert dealer.ok("send_many", {"sends": []})["results"] == []
    assert dealer.ok("pending")["sends"] == []
