"""Filter of js-waku's SDK: subscribing, pushes, pings, unsubscribing, and coming back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

import pytest

from ipc_schema.message import message_hash
from tests.interop.conftest import MakeLightNode
from tests.interop.sdk.light_node import JsMessage, LightNode
from tests.interop.sdk.network import Served, ServiceKernel, served
from tests.support.kernel_process import eventually, short_directory

pytestmark = [pytest.mark.interop, pytest.mark.integration, pytest.mark.timeout(300)]

A, B, OTHER = (f"/interop/1/{name}/proto" for name in ("a", "b", "other"))
REJECTED = "Remote peer rejected"
KIB = 1024


@pytest.fixture(scope="module")
def network() -> Iterator[Served]:
    with served("--rate-limit=lightpush:0/1s") as network:
        yield network


@pytest.fixture
def js(network: Served, make_light_node: MakeLightNode) -> LightNode:
    """A light node without subscriptions."""
    node: LightNode = make_light_node()
    node.join(network.service.ws_address)
    return node


def take(js: LightNode, wanted: Sequence[bytes]) -> list[JsMessage]:
    """What is pushed next is this, in this order."""
    found = [js.next_message() for _ in wanted]
    assert [one.hash for one in found] == list(wanted)
    assert [message_hash(one.pubsub_topic, one.message) for one in found] == list(wanted)
    return found


def untroubled(js: LightNode) -> None:
    """js-waku has nothing more to tell, and no error."""
    assert js.pending("message") == []
    assert js.pending("log") == []


def test_subscribed_pushed_unsubscribed(network: Served, js: LightNode) -> None:
    criteria = partial(network.service.metric, "filter_criteria")
    before = criteria()
    assert js.subscribe(A, B)
    assert criteria() == before + 2
    assert js.ping(network.service.peer_id) is None

    now = time.time_ns()
    network.publish(OTHER, b"not asked for", now)
    digests = [
        network.publish((A, B)[number % 2], b"%d" % number, now + number, meta=b"m", ephemeral=number == 4)
        for number in range(10)
    ]
    found = take(js, digests)
    assert [one.message.payload for one in found] == [b"%d" % number for number in range(10)]
    assert {one.message.meta for one in found} == {b"m"}
    assert [one.message.ephemeral for one in found].index(True) == 4
    assert [one.message.timestamp for one in found] == [now + number for number in range(10)]

    # js-waku does not wait for the answer to an unsubscribe.
    assert js.unsubscribe(A)
    eventually(lambda: criteria() == before + 1)
    network.publish(A, b"no more", now + 20)
    take(js, [network.publish(B, b"still", now + 21)])
    assert js.unsubscribe(B)
    eventually(lambda: criteria() == before)
    untroubled(js)
    assert js.ping(network.service.peer_id) == REJECTED
    js.wait_log("Filter ping request")
    assert js.subscribe(A)
    take(js, [network.publish(A, b"back", now + 30)])
    assert js.leave(network.service.peer_id) is None
    assert js.leave(network.service.peer_id) == REJECTED
    assert "404: NOT_FOUND: peer has no subscriptions" in js.wait_log("Filter unsubscribe all")
    assert criteria() == before


def test_what_one_light_node_pushes_another_gets(
    network: Served, js: LightNode, make_light_node: MakeLightNode
) -> None:
    """Its own messages too: that is how js-waku knows that they went out."""
    other: LightNode = make_light_node()
    other.join(network.service.ws_address)
    assert js.subscribe(A)
    assert other.subscribe(A)
    digests = [js.send(A, b"%d" % number).hash for number in range(5)]
    for node in (js, other):
        take(node, digests)
        untroubled(node)


def test_bursts_and_large_messages(network: Served, js: LightNode) -> None:
    assert js.subscribe(A)
    now = time.time_ns()
    take(js, [network.publish(A, b"%d" % number, now + number) for number in range(200)])
    large = [network.publish(A, bytes(140 * KIB), now + 1000 + number) for number in range(5)]
    take(js, large)
    untroubled(js)


def test_a_hundred_topics_at_once_and_no_more(network: Served, js: LightNode) -> None:
    topics = [f"/interop/1/many-{number}/proto" for number in range(101)]
    assert not js.subscribe(*topics)
    js.wait_log("400: BAD_REQUEST: exceeds maximum content topics: 100")
    assert js.unsubscribe(topics[0])
    assert js.subscribe(OTHER)
    take(js, [network.publish(OTHER, b"x", time.time_ns())])


def test_the_pings_of_the_sdk_are_answered(network: Served, make_light_node: MakeLightNode) -> None:
    """By default it pings every minute, and after three failures in a row takes another peer."""
    js: LightNode = make_light_node(ping_ms=100)
    js.join(network.service.ws_address)
    assert js.subscribe(A)
    answered = partial(network.service.metric, "service_requests", service="filter", state="served")
    before = answered()
    eventually(lambda: answered() >= before + 8)
    take(js, [network.publish(A, b"still here", time.time_ns())])
    untroubled(js)


def test_a_kernel_that_was_killed_is_subscribed_at_again(make_light_node: MakeLightNode) -> None:
    js: LightNode = make_light_node()
    with short_directory() as directory:
        with ServiceKernel(directory / "k", "--shard=0", "--websocket-port=0") as first:
            js.join(first.ws_address)
            assert js.subscribe(A)
            port, address, peer_id = first.ws_address.split("/")[4], first.ws_address, first.peer_id
        js.wait_event("disconnected", lambda event: bool(event["peerId"] == peer_id))
        with ServiceKernel(directory / "k", "--shard=0", f"--websocket-port={port}") as again:
            assert again.ws_address == address
            js.dial(address)  # the SDK subscribes by itself
            eventually(lambda: again.metric("filter_criteria") == 1)
            dealer = again.dealer()
            error = dealer.ask("relay.publish", {"content_topic": A}, b"back").error
            assert error is not None  # there is no peer to relay to
            take(js, [error.detail["message_hash"]])  # type: ignore[list-item]
