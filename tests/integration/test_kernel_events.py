"""The event stream of a real kernel: heartbeats, own messages, replay, epochs, slow readers."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil
import pytest

from ipc_schema.kernel.events import (
    HEALTH_TOPIC,
    PEERS_TOPIC,
    SOURCE_SELF,
    HealthEvent,
    Heartbeat,
    MessageEvent,
    decode_header,
    stream_topic,
)
from ipc_schema.message import WakuMessage, message_hash
from tests.support.kernel_process import Dealer, KernelProcess, eventually, short_directory

pytestmark = pytest.mark.integration

TOPIC = "/test/1/events/proto"
SHARD = stream_topic(0, 0)


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelProcess]:
    with short_directory() as path, KernelProcess(path / "k", "--replay-budget=256KiB") as kernel:
        yield kernel


@pytest.fixture
def dealer(kernel: KernelProcess) -> Iterator[Dealer]:
    dealer = kernel.dealer()
    yield dealer
    dealer.ok("lease.release", {"shards": [0]})
    dealer.close()


def lease(dealer: Dealer) -> dict[str, object]:
    found: dict[str, object] = dealer.ok("lease.acquire", {"shards": [0]})["leases"][0]
    return found


def ignored(dealer: Dealer) -> float:
    """Subscriptions to unknown streams, which are not confirmed."""
    metrics = dealer.ok("node.metrics")["metrics"]
    return float(
        sum(value for name, _, value in metrics if name == "logos_delivery_ipc_subscriptions_ignored")
    )


def publish(dealer: Dealer, payload: bytes, **more: object) -> None:
    reply = dealer.ask("relay.publish", {"content_topic": TOPIC, **more}, payload)
    assert reply.error is not None
    assert reply.error.code == "no_peers"


def test_each_subscription_is_confirmed_at_once(kernel: KernelProcess, dealer: Dealer) -> None:
    state = lease(dealer)
    for topic in (SHARD, HEALTH_TOPIC, PEERS_TOPIC):
        subscriber = kernel.subscriber(topic)
        found, event, body = subscriber.event()
        assert found == topic
        assert body == b""
        assert isinstance(event, Heartbeat)
        # A second reader of the same stream gets one of its own.
        second = kernel.subscriber(topic)
        second.heartbeat()
        if topic == SHARD:
            assert event.epoch == state["epoch"]
            assert event.covered is False
        else:
            assert event.covered is True
        second.close()
        subscriber.close()


def test_heartbeats_go_on(kernel: KernelProcess, dealer: Dealer) -> None:
    lease(dealer)
    subscriber = kernel.subscriber(SHARD)
    first, second, third = (subscriber.heartbeat().time_ns for _ in range(3))
    assert first < second < third
    subscriber.close()


def test_a_subscription_of_no_stream_gets_nothing(kernel: KernelProcess, dealer: Dealer) -> None:
    lease(dealer)
    before = ignored(dealer)
    others = [kernel.subscriber(topic) for topic in (b"m/0/0", b"m/1/0\0", b"m/0/1\0", b"x\0")]
    eventually(lambda: ignored(dealer) == before + len(others))
    subscriber = kernel.subscriber(SHARD)
    for _ in range(3):  # the first answers the subscription, the others come at the interval
        subscriber.heartbeat()
    for other in others[1:]:  # the first is the beginning of a stream's name, and sees its heartbeats
        with pytest.raises(TimeoutError):
            other.event(0)
    for socket in (subscriber, *others):
        socket.close()


def test_own_messages_come_once_and_in_order(kernel: KernelProcess, dealer: Dealer) -> None:
    state = lease(dealer)
    subscriber = kernel.subscriber(SHARD)
    subscriber.heartbeat()
    stamp = time.time_ns()
    for number in range(50):
        publish(dealer, b"%d" % number, timestamp=stamp, meta=b"m", ephemeral=True)
    publish(dealer, b"0", timestamp=stamp, meta=b"m", ephemeral=True)  # a repeat: not again on the stream
    publish(dealer, b"last", timestamp=stamp)
    for number in range(50):
        event, payload = subscriber.message()
        assert payload == b"%d" % number
        assert (event.seq, event.source, event.epoch) == (number + 1, SOURCE_SELF, state["epoch"])
        assert (event.content_topic, event.timestamp, event.meta, event.ephemeral) == (
            TOPIC,
            stamp,
            b"m",
            True,
        )
        message = WakuMessage(payload, TOPIC, timestamp=stamp, meta=b"m", ephemeral=True)
        assert event.message_hash == message_hash("/waku/2/rs/0/0", message)
    assert subscriber.message()[1] == b"last"
    subscriber.close()


def test_missed_events_are_replayed(kernel: KernelProcess, dealer: Dealer) -> None:
    state = lease(dealer)
    for number in range(100):
        publish(dealer, b"missed %d" % number)
    reply = dealer.ask("stream.replay", {"stream": "m/0/0", "epoch": state["epoch"], "after": 40})
    assert reply.error is None
    assert reply.body == {"events": 60, "last": 100, "complete": True}
    for number, (header, payload) in enumerate(zip(reply.blobs[::2], reply.blobs[1::2], strict=True)):
        event = decode_header(header)
        assert isinstance(event, MessageEvent)
        assert event.seq == 41 + number
        assert payload == b"missed %d" % (40 + number)


def test_a_replay_is_cut_into_parts_and_the_ring_is_bounded(kernel: KernelProcess, dealer: Dealer) -> None:
    state = lease(dealer)
    for number in range(12):
        publish(dealer, bytes(100_000), timestamp=number + 1)
    where = {"stream": "m/0/0", "epoch": state["epoch"]}
    trimmed = dealer.ask("stream.replay", where | {"after": 0}).error
    assert trimmed is not None
    assert trimmed.code == "trimmed"
    first = trimmed.detail["first"]
    assert first == 11  # 256 KiB hold two of them
    assert dealer.ok("stream.replay", where | {"after": 10}) == {"events": 2, "last": 12, "complete": True}
    assert dealer.ok("stream.replay", where | {"after": 12}) == {"events": 0, "last": 12, "complete": True}
    assert dealer.code("stream.replay", where | {"after": 13}) == "bad_request"
    assert lease(dealer)["first"] == 11
    changed = dealer.ask("stream.replay", {"stream": "m/0/0", "epoch": bytes(8), "after": 0}).error
    assert changed is not None
    assert changed.code == "epoch_changed"
    assert changed.detail["epoch"] == state["epoch"]
    for name in ("m/1/0", "m/0/7", "p", "nonsense"):
        assert dealer.code("stream.replay", where | {"stream": name, "after": 0}) == "bad_request"


def test_one_replay_of_a_consumer_at_a_time(dealer: Dealer) -> None:
    where = {"stream": "m/0/0", "epoch": lease(dealer)["epoch"], "after": 0}
    codes: set[str] = set()
    for _ in range(20):
        for _ in range(2):
            dealer.send("stream.replay", where)
        for _ in range(2):
            error = dealer.receive().error
            codes.add(str(error.code) if error else "ok")
        if "busy" in codes:
            break
    assert codes == {"ok", "busy"}


def test_a_lapsed_lease_shows() -> None:
    """A renewal that comes too late finds another epoch."""
    with short_directory() as path, KernelProcess(path / "k", "--lease-ttl=1s") as kernel:
        dealer, other = kernel.dealer(), kernel.dealer()
        before = lease(dealer)
        subscriber = kernel.subscriber(SHARD)
        while other.ok("node.health")["shards"][0]["health"] != "NOT_SUBSCRIBED":
            subscriber.heartbeat()
        publish(dealer, b"without a recording")
        after = lease(dealer)
        assert after["epoch"] != before["epoch"]
        assert (after["first"], after["last"]) == (1, 0)
        while subscriber.heartbeat().epoch != after["epoch"]:
            after = lease(dealer)


def test_health_events_tell_the_whole() -> None:
    # A kernel of its own: leaving a shard and joining it again within 100 ms does not change the health.
    with short_directory() as path, KernelProcess(path / "k") as kernel:
        subscriber = kernel.subscriber(HEALTH_TOPIC)
        seq = subscriber.heartbeat().seq
        lease(kernel.dealer())
        shards: list[str] = []
        while shards != ["UNHEALTHY"]:  # events about other changes may come first
            _, event, _ = subscriber.event()
            if isinstance(event, HealthEvent):
                assert event.seq > seq
                shards = [shard.health for shard in event.health.shards]
                assert len(shards) == 1


def test_a_hung_reader_costs_bounded_memory_and_delays_no_one_else(
    kernel: KernelProcess, dealer: Dealer
) -> None:
    """32 MiB at most wait for one that hangs; it sees the loss by the seq, and others lose nothing."""
    lease(dealer)
    hung = kernel.subscriber(SHARD, rcvhwm=1)
    reader = kernel.subscriber(SHARD)
    hung.heartbeat()
    reader.heartbeat()
    assert kernel.process is not None
    total = 800
    payload = bytes(100_000)
    for number in range(total):
        publish(dealer, payload, timestamp=1000 + number)
        if number % 100 == 0:
            lease(dealer)
    for number in range(total):
        assert reader.message()[0].timestamp == 1000 + number
    assert psutil.Process(kernel.process.pid).memory_info().rss < 350 << 20
    seen = [hung.message()[0].seq]
    while seen[-1] < total:
        _, event, _ = hung.event()
        seen.append(event.seq)
        if isinstance(event, Heartbeat):
            break
    assert len(seen) < total
    hung.close()
    reader.close()
