"""Event streams: numbering, recording, coverage, subscriptions, heartbeats."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio

from ipc_schema.errors import IpcError
from ipc_schema.kernel.events import (
    HEALTH_TOPIC,
    PEERS_TOPIC,
    SOURCE_RELAY,
    SOURCE_SELF,
    HealthEvent,
    Heartbeat,
    KernelEvent,
    MessageEvent,
    PeerEvent,
    decode_header,
    stream_topic,
)
from ipc_schema.kernel.records import NodeHealth, PeerChange, PeerRecord
from ipc_schema.message import WakuMessage
from kernel_proc.ipc.events import BEATS_AT_ONCE, EventPublisher
from kernel_proc.metrics import Registry
from tests.support.mock_clock import mock_clock_test

SHARD = stream_topic(1, 1)
MESSAGE = WakuMessage(b"payload", "/a/1/b/proto", 3, 4, b"meta", b"proof", True)
HASH = bytes(32)


class Bench:
    """A publisher without sockets: what it sends is kept, time and randomness are counters."""

    def __init__(self, **options: int) -> None:
        self.sent: list[tuple[bytes, KernelEvent, bytes]] = []
        self.now = 0
        self.drawn = 0
        self.publisher = EventPublisher(
            instance=bytes(16),
            cluster=1,
            shard_count=options.get("shard_count", 8),
            replay_bytes=options.get("replay_bytes", 1 << 20),
            registry=Registry(""),
            clock_ns=lambda: self.now,
            random_bytes=self._draw,
        )
        self.publisher.attach(self)

    def _draw(self, size: int) -> bytes:
        self.drawn += 1
        return self.drawn.to_bytes(size, "big")

    def publish(self, first: bytes, second: bytes, third: bytes) -> None:
        self.sent.append((first, decode_header(second), third))

    def subscribe(self, topic: bytes, on: bool = True) -> None:
        self.publisher.on_subscription([(b"\x01" if on else b"\x00") + topic])

    def relay(self, payload: bytes = b"payload", source: int = SOURCE_RELAY) -> None:
        self.publisher.publish_message(1, MESSAGE._replace(payload=payload), HASH, source)

    def take(self) -> list[tuple[bytes, KernelEvent, bytes]]:
        sent, self.sent = self.sent, []
        return sent


def test_an_inactive_shard_costs_nothing() -> None:
    bench = Bench()
    bench.subscribe(SHARD)
    bench.take()
    bench.relay()
    assert bench.take() == []
    assert bench.publisher.state(1).last == 0


def test_recording_does_not_need_subscribers() -> None:
    bench = Bench()
    bench.publisher.activate(1)
    bench.relay(b"one")
    bench.relay(b"two", SOURCE_SELF)
    assert bench.take() == []
    state = bench.publisher.state(1)
    assert (state.first, state.last) == (1, 2)
    batch = bench.publisher.replay("m/1/1", state.epoch, 0)
    assert [payload for _, payload in batch.events] == [b"one", b"two"]
    events = [decode_header(header) for header, _ in batch.events]
    assert [event.seq for event in events] == [1, 2]
    assert isinstance(events[1], MessageEvent)
    assert events[1] == MessageEvent(
        bytes(16), state.epoch, 2, 0, "/a/1/b/proto", HASH, 4, b"meta", True, 3, b"proof", SOURCE_SELF
    )


def test_events_are_sent_as_they_are_recorded() -> None:
    bench = Bench()
    bench.publisher.activate(1)
    bench.subscribe(SHARD)
    bench.relay()
    (topic, beat, _), (_, event, payload) = bench.take()
    assert topic == SHARD
    assert isinstance(beat, Heartbeat)
    assert beat.seq == 0
    header, recorded = bench.publisher.replay("m/1/1", beat.epoch, 0).events[0]
    assert decode_header(header) == event
    assert recorded is payload


def test_every_activation_is_a_new_epoch() -> None:
    bench = Bench()
    bench.subscribe(SHARD)
    bench.publisher.activate(1)
    first = bench.publisher.state(1)
    bench.relay()
    bench.publisher.activate(1)  # again: nothing happens
    assert bench.publisher.state(1).last == 1
    bench.publisher.deactivate(1)
    assert not bench.publisher.is_active(1)
    with pytest.raises(IpcError, match="epoch_changed"):
        bench.publisher.replay("m/1/1", first.epoch, 0)
    bench.take()
    bench.publisher.activate(1)
    second = bench.publisher.state(1)
    assert second.epoch != first.epoch
    assert (second.first, second.last) == (1, 0)
    # subscribers learn of it at once
    assert [event.epoch for _, event, _ in bench.take()] == [second.epoch]


def test_replay_of_other_streams_is_refused() -> None:
    bench = Bench()
    bench.publisher.activate(1)
    epoch = bench.publisher.state(1).epoch
    for name in ("m/2/1", "m/1/8", "m/1/x", "p", "n"):
        with pytest.raises(IpcError, match="bad_request"):
            bench.publisher.replay(name, epoch, 0)


def test_coverage_changes_are_published_at_once_and_kept() -> None:
    bench = Bench()
    bench.publisher.activate(1)
    bench.subscribe(SHARD)
    bench.take()
    for now, covered in ((10, True), (20, True), (30, False), (40, False), (50, True)):
        bench.now = now
        bench.publisher.set_covered(1, covered)
    beats = [event for _, event, _ in bench.take() if isinstance(event, Heartbeat)]
    assert [(beat.time_ns, beat.covered) for beat in beats] == [(10, True), (30, False), (50, True)]
    assert bench.publisher.state(1).coverage == ((10, 30), (50, None))


def test_heartbeats_go_to_read_streams_only() -> None:
    bench = Bench()
    bench.publisher.activate(1)
    bench.publisher.activate(2)
    bench.publisher.beat()
    assert bench.take() == []
    for topic in (SHARD, HEALTH_TOPIC, SHARD):
        bench.subscribe(topic)
        assert [found for found, _, _ in bench.take()] == [topic]
    bench.relay()
    bench.take()
    bench.publisher.beat()
    beats = {topic: event for topic, event, _ in bench.take()}
    assert set(beats) == {SHARD, HEALTH_TOPIC}
    assert beats[SHARD].seq == 1
    bench.subscribe(SHARD, on=False)
    bench.publisher.beat()
    assert [topic for topic, _, _ in bench.take()] == [HEALTH_TOPIC]


def test_a_reader_may_come_before_the_lease() -> None:
    bench = Bench()
    bench.subscribe(SHARD)
    ((_, beat, _),) = bench.take()
    bench.publisher.activate(1)
    ((_, after, _),) = bench.take()
    assert after.epoch != beat.epoch


@pytest.mark.parametrize(
    "frame",
    [b"", b"\x01", b"\x01m/1/1", b"\x01m/01/1\0", b"\x01m/2/1\0", b"\x01m/1/8\0", b"\x01\xff\0", b"\x02p\0"],
)
def test_other_subscriptions_are_counted_and_ignored(frame: bytes) -> None:
    registry = Registry("")
    publisher = EventPublisher(
        instance=bytes(16), cluster=1, shard_count=8, replay_bytes=0, registry=registry
    )
    publisher.on_subscription([frame])
    assert ("ipc_subscriptions_ignored", {}, 1) in registry.collect()
    publisher.beat()


def test_static_sharding_knows_every_shard() -> None:
    bench = Bench(shard_count=0)
    bench.subscribe(stream_topic(1, 65_535))
    assert len(bench.take()) == 1


def test_streams_that_were_only_subscribed_to_are_forgotten() -> None:
    bench = Bench(shard_count=0)
    for shard in range(2000):
        bench.subscribe(stream_topic(1, shard))
    bench.publisher.activate(7)
    for shard in range(2000):
        bench.subscribe(stream_topic(1, shard), on=False)
    assert len(bench.publisher._by_topic) == 3  # health, peers, and the recorded one
    bench.publisher.deactivate(7)
    epoch = bench.publisher.state(7).epoch
    bench.publisher.set_covered(8, covered=True)
    bench.subscribe(stream_topic(1, 8))
    bench.subscribe(stream_topic(1, 8), on=False)
    assert bench.publisher.state(8).coverage  # what it was covered by is kept
    assert bench.publisher.state(7).epoch == epoch


@mock_clock_test
async def test_heartbeats_come_each_second() -> None:
    bench = Bench()
    bench.subscribe(SHARD)
    bench.take()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.publisher.run)
        for seconds in range(4):
            await trio.sleep_until(seconds + 0.5)
            assert len(bench.take()) == (seconds > 0), seconds
        nursery.cancel_scope.cancel()


@mock_clock_test
async def test_a_thousand_heartbeats_leave_turns_for_others() -> None:
    bench = Bench(shard_count=0)
    for shard in range(1000):
        bench.subscribe(stream_topic(1, shard))
    bench.take()
    turns: list[int] = []

    async def other() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            turns.append(len(bench.sent))
            if len(bench.sent) >= 1000:
                return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.publisher.run)
        await trio.sleep(1.0)
        await other()
        nursery.cancel_scope.cancel()
    steps = [after - before for before, after in pairwise(turns)]
    # trio takes the tasks of a turn in any order
    assert max(steps) <= 2 * BEATS_AT_ONCE


def test_health_and_peers_count_without_readers() -> None:
    bench = Bench()
    health = NodeHealth(state="READY")
    peer = PeerRecord(peer_id="16U")
    bench.publisher.publish_health(health)
    bench.publisher.publish_peer(PeerChange.JOINED, peer)
    assert bench.take() == []
    bench.subscribe(HEALTH_TOPIC)
    bench.subscribe(PEERS_TOPIC)
    assert [event.seq for _, event, _ in bench.take()] == [1, 1]
    bench.publisher.publish_health(health)
    bench.publisher.publish_peer(PeerChange.LEFT, peer)
    (_, first, _), (_, second, _) = bench.take()
    assert isinstance(first, HealthEvent)
    assert (first.seq, first.health) == (2, health)
    assert isinstance(second, PeerEvent)
    assert (second.seq, second.change, second.peer) == (2, "left", peer)


def test_one_budget_for_all_shards() -> None:
    bench = Bench(replay_bytes=4000)
    for shard in (1, 2):
        bench.publisher.activate(shard)
    for number in range(10):
        for shard in (1, 2):
            bench.publisher.publish_message(shard, MESSAGE._replace(payload=bytes(100)), HASH, number % 2)
    kept = [bench.publisher.state(shard) for shard in (1, 2)]
    assert all(1 < state.first <= state.last == 10 for state in kept)
    bench.publisher.deactivate(1)
    for _ in range(5):
        bench.publisher.publish_message(2, MESSAGE._replace(payload=bytes(100)), HASH, 0)
    assert bench.publisher.state(2).first <= kept[1].first + 2


@pytest.mark.parametrize("step", [3600, -3600])
def test_coverage_is_reported_by_the_wall_clock_of_now_whatever_it_was_before(step: int) -> None:
    second = 1_000_000_000
    bench = Bench()
    elapsed, bench.now = 0, 9999 * second
    bench.publisher._steady_ns = lambda: elapsed
    bench.publisher.set_covered(1, True)
    elapsed, bench.now = 10 * second, bench.now + (10 + step) * second
    bench.publisher.set_covered(1, False)
    elapsed, bench.now = 15 * second, bench.now + 5 * second
    bench.publisher.set_covered(1, True)
    assert bench.publisher.state(1).coverage == (
        (bench.now - 15 * second, bench.now - 5 * second),
        (bench.now, None),
    )
