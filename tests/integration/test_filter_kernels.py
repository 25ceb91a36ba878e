"""Filter between real kernels, worked by the methods of their ROUTER, seen on their event streams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipc_schema.kernel.events import SOURCE_FILTER, SOURCE_RELAY, stream_topic
from tests.support.kernel_process import Dealer, KernelProcess, Subscriber, eventually, short_directory

pytestmark = pytest.mark.integration

TOPIC = "/test/1/filter/proto"
OTHER = "/test/1/other/proto"
PUBSUB = "/waku/2/rs/0/0"
STREAM = stream_topic(0, 0)


@pytest.fixture(name="directory")
def _directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture(name="service")
def _service(directory: Path) -> Iterator[KernelProcess]:
    with KernelProcess(directory / "s", "--shard=0", "--ip-colocation-limit=0") as kernel:
        yield kernel


@pytest.fixture(name="edge")
def _edge(directory: Path, service: KernelProcess) -> Iterator[KernelProcess]:
    """A kernel without relay, connected to the service."""
    with KernelProcess(
        directory / "e", "--relay=false", f"--staticnode={service.address()}", "--lease-ttl=3s"
    ) as kernel:
        eventually(lambda: health(kernel.dealer(), "Filter Client")["state"] == "READY")
        yield kernel


def health(dealer: Dealer, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(p for p in dealer.ok("node.health")["protocols"] if p["name"] == name)
    return found


def shard(dealer: Dealer) -> dict[str, Any]:
    found: dict[str, Any] = dealer.ok("node.health")["shards"][0]
    return found


def publish(kernel: Dealer, payload: bytes, topic: str = TOPIC) -> bytes:
    """Publish at a kernel; it need not have a relay peer."""
    reply = kernel.ask("relay.publish", {"content_topic": topic}, payload)
    body = reply.body if reply.error is None else reply.error.detail
    digest = body["message_hash"]
    assert isinstance(digest, bytes)
    return digest


def reader(kernel: KernelProcess) -> Subscriber:
    subscriber = kernel.subscriber(STREAM)
    subscriber.heartbeat()
    return subscriber


def metric(dealer: Dealer, name: str, **labels: str) -> float:
    for found, its_labels, value in dealer.ok("node.metrics")["metrics"]:
        if found == f"logos_delivery_{name}" and its_labels == labels:
            return float(value)
    raise AssertionError(f"no {name} {labels}")


def test_messages_come_by_filter_to_a_kernel_without_relay(
    service: KernelProcess, edge: KernelProcess
) -> None:
    consumer, sender = edge.dealer("app"), service.dealer()
    assert consumer.code("filter.subscribe", {"content_topics": [TOPIC]}) == "bad_request"  # no lease
    (state,) = consumer.ok("lease.acquire", {"shards": [0]})["leases"]
    assert state["coverage"] == []
    assert shard(consumer)["health"] == "UNHEALTHY"
    events = reader(edge)

    done = consumer.ok("filter.subscribe", {"content_topics": [TOPIC]})
    peer = service.info("MyPeerId")["MyPeerId"]
    assert done == {"peer": peer, "pubsub_topic": PUBSUB, "held": {PUBSUB: {peer: [TOPIC]}}}
    found = shard(consumer)
    assert (found["filter_peers"], found["health"]) == (1, "MINIMALLY_HEALTHY")
    assert health(consumer, "Filter Client")["strength"] == 1

    publish(sender, b"not asked for", OTHER)
    digests = [publish(sender, bytes([number])) for number in range(20)]
    for number, digest in enumerate(digests):
        event, payload = events.message()
        assert (event.message_hash, payload, event.source) == (digest, bytes([number]), SOURCE_FILTER)
        assert event.seq == number + 1
    (state,) = consumer.ok("lease.acquire", {"shards": [0]})["leases"]
    assert state["coverage"][-1][1] is None
    replay = consumer.ask("stream.replay", {"stream": "m/0/0", "epoch": state["epoch"], "after": 0})
    assert replay.body["events"] == 20

    left = consumer.ok("filter.unsubscribe", {"content_topics": [TOPIC]})
    assert left == {"held": {}, "errors": {}}
    eventually(lambda: metric(sender, "filter_subscriptions") == 0)
    (state,) = consumer.ok("lease.acquire", {"shards": [0]})["leases"]
    assert state["coverage"][-1][1] is not None
    assert shard(consumer)["filter_peers"] == 0


def test_on_the_wire_the_last_consumer_counts(service: KernelProcess, edge: KernelProcess) -> None:
    first, second, sender = edge.dealer("first"), edge.dealer("second"), service.dealer()
    for dealer in (first, second):
        dealer.ok("lease.acquire", {"shards": [0]})
        dealer.ok("filter.subscribe", {"content_topics": [TOPIC, OTHER]})
    first.ok("filter.unsubscribe", {"content_topics": [TOPIC]})
    assert metric(sender, "filter_criteria") == 2
    second.ok("filter.unsubscribe", {"content_topics": [TOPIC]})
    assert metric(sender, "filter_criteria") == 1
    assert list(first.ok("filter.ping")["held"][PUBSUB].values()) == [[OTHER]]
    first.ok("filter.unsubscribe")
    assert metric(sender, "filter_criteria") == 1
    # The other one's lease is not renewed: what it has subscribed to goes with it.
    eventually(lambda: metric(sender, "filter_subscriptions") == 0)
    assert second.ok("filter.ping") == {"peers": [], "held": {}}


def test_relay_and_filter_together_bring_a_message_once(directory: Path, service: KernelProcess) -> None:
    with KernelProcess(directory / "r", f"--staticnode={service.address()}") as kernel:
        dealer, sender = kernel.dealer("app"), service.dealer()
        dealer.ok("lease.acquire", {"shards": [0]})
        eventually(lambda: shard(dealer)["mesh_peers"] == 1)
        events = reader(kernel)
        dealer.ok("filter.subscribe", {"content_topics": [TOPIC]})
        digests = [publish(sender, bytes([number])) for number in range(30)]
        got = [events.message()[0] for _ in digests]
        assert {event.message_hash for event in got} == set(digests)
        assert [event.seq for event in got] == list(range(1, 31))
        assert {event.source for event in got} <= {SOURCE_RELAY, SOURCE_FILTER}
        own = publish(dealer, b"own")
        event, _ = events.message()
        assert (event.message_hash, event.seq) == (own, 31)
        last = publish(sender, b"last")
        event, _ = events.message()  # the own one has not come back by filter
        assert (event.message_hash, event.seq) == (last, 32)


def test_a_peer_that_leaves_holds_nothing_any_more(service: KernelProcess, edge: KernelProcess) -> None:
    consumer = edge.dealer("app")
    consumer.ok("lease.acquire", {"shards": [0]})
    peer = consumer.ok("filter.subscribe", {"content_topics": [TOPIC]})["peer"]
    assert consumer.ok("filter.ping")["peers"] == [{"peer": peer, "status": 200}]
    consumer.ok("peers.disconnect", {"peer_id": peer})
    found = consumer.ok("lease.acquire", {"shards": [0]})["leases"][0]["coverage"]
    assert found[-1][1] is not None
    assert consumer.ok("filter.ping") == {"peers": [], "held": {}}
    # It is dialled again, and asked again it has it again.
    eventually(lambda: consumer.ask("filter.subscribe", {"content_topics": [TOPIC]}).error is None)
    assert shard(consumer)["filter_peers"] == 1


def test_what_is_asked_for_wrongly(service: KernelProcess, edge: KernelProcess) -> None:
    dealer = edge.dealer("app")
    dealer.ok("lease.acquire", {"shards": [0]})
    wrong: list[dict[str, object]] = [
        {"content_topics": []},
        {"content_topics": ["no topic"]},
        {"content_topics": [TOPIC], "shard": 1},
        {"content_topics": [TOPIC], "pubsub_topic": "/waku/2/rs/9/0"},
        {"content_topics": [TOPIC], "pubsub_topic": PUBSUB, "shard": 3},
    ]
    for body in wrong:
        assert dealer.code("filter.subscribe", body) == "bad_request", body
    peer = service.info("MyPeerId")["MyPeerId"]
    body = {"content_topics": [TOPIC], "exclude": [peer]}
    assert dealer.code("filter.subscribe", body) == "no_peers"
    unreachable = {
        "content_topics": [TOPIC],
        "peer": "/ip4/127.0.0.1/tcp/1/p2p/" + edge.info("MyPeerId")["MyPeerId"],
    }
    assert dealer.code("filter.subscribe", unreachable) == "no_peers"
    named = {"content_topics": [TOPIC], "peer": service.address()}
    assert dealer.ok("filter.subscribe", named)["peer"] == peer
    (ping,) = dealer.ok("filter.ping", {"peer": "unknown"})["peers"]
    assert (ping["peer"], "status" in ping) == ("unknown", False)
