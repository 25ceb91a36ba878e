"""Shards: holders, and what follows from them for relay, recording and coverage."""

from __future__ import annotations

from typing import cast

import pytest

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.kernel.events import SOURCE_SELF, MessageEvent, decode_header
from ipc_schema.message import WakuMessage, message_hash
from kernel_proc import shards
from kernel_proc.ipc.events import EventPublisher
from kernel_proc.metrics import Registry
from kernel_proc.protocols.filter.client import FilterClient
from kernel_proc.protocols.filter.interests import Interests
from kernel_proc.relay.service import RelayService
from kernel_proc.shards import Shards
from tests.support.steps import lines_run

TOPIC = "/waku/2/rs/1/{}"


class Relay:
    """The relay as far as shards know it."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.mesh: dict[str, list[str]] = {}
        self.gossiping: list[str] = []

    def subscribe(self, topic: str) -> bool:
        self.topics.append(topic)
        return True

    def unsubscribe(self, topic: str) -> bool:
        self.topics.remove(topic)
        return True

    def mesh_peers(self, topic: str) -> list[str]:
        return self.mesh.get(topic, [])

    def topic_peers(self, topic: str) -> list[str]:
        return self.mesh.get(topic, []) + self.gossiping


class Filter:
    """The filter client as far as shards know it."""

    def __init__(self) -> None:
        self.interests = Interests()
        self.ended = 0

    def leases_ended(self) -> None:
        self.ended += 1


class House:
    """Shards on a relay of the test, with a clock of the test."""

    def __init__(
        self,
        static: tuple[int, ...] = (),
        shard_count: int = 8,
        *,
        relay: bool = True,
        with_filter: bool = False,
    ) -> None:
        self.now = 0.0
        self.changes = 0
        self.registry = Registry("")
        self.publisher = EventPublisher(
            instance=bytes(16),
            cluster=1,
            shard_count=shard_count,
            replay_bytes=1 << 20,
            registry=self.registry,
        )
        self.relay = Relay()
        self.shards = Shards(
            self.publisher,
            cluster=1,
            shard_count=shard_count,
            lease_ttl=60.0,
            static=static,
            registry=self.registry,
            clock=lambda: self.now,
            changed=self._changed,
        )
        self.filter = Filter()
        if with_filter:
            self.shards.filter_client = cast("FilterClient", self.filter)
        if relay or with_filter:
            self.shards.start(cast("RelayService", self.relay) if relay else None)

    def _changed(self) -> None:
        self.changes += 1


def test_a_lease_joins_and_its_end_leaves() -> None:
    house = House()
    states = house.shards.acquire("a", [1, 2, 1])
    assert [state.shard for state in states] == [1, 2, 1]
    assert house.relay.topics == [TOPIC.format(1), TOPIC.format(2)]
    assert house.publisher.active_shards() == house.shards.joined() == [1, 2]
    assert house.shards.release("a", [2, 3, 2]) == [2]
    assert house.relay.topics == [TOPIC.format(1)]
    assert not house.publisher.is_active(2)
    assert house.changes == 3


def test_the_last_holder_decides() -> None:
    house = House()
    epoch = house.shards.acquire("a", [1])[0].epoch
    assert house.shards.acquire("b", [1])[0].epoch == epoch
    house.shards.release("a", [1])
    assert house.shards.joined() == [1]
    assert house.shards.holds_lease("b")
    assert not house.shards.holds_lease("a")
    house.shards.release("b", [1])
    assert house.shards.joined() == []


def test_leases_expire_unless_renewed() -> None:
    house = House()
    house.shards.acquire("a", [1, 2])
    house.now = 50.0
    epoch = house.shards.acquire("a", [1])[0].epoch
    house.now = 60.0
    house.shards.expire()
    assert house.shards.joined() == [1]
    house.now = 109.0
    house.shards.expire()
    assert house.shards.joined() == [1]
    house.now = 110.0
    # renewed a moment too late: that is a new activation, and its epoch shows it
    assert house.shards.acquire("a", [1])[0].epoch != epoch


def test_at_the_bound_leases_can_still_be_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_LEASES", 3)
    house = House()
    house.shards.acquire("a", [1, 2, 3])
    with pytest.raises(IpcError, match="3 leases are held") as caught:
        house.shards.acquire("b", [1])
    assert caught.value.code is ErrorCode.BUSY
    house.now = 50.0
    assert [state.shard for state in house.shards.acquire("a", [3, 1, 2, 1])] == [3, 1, 2, 1]
    house.now = 110.0  # all have lapsed, which makes room at once
    assert len(house.shards.acquire("b", [1, 2, 3])) == 3


def test_whether_a_consumer_holds_a_lease_is_known_at_once() -> None:
    """It is asked for each consumer when the table of consumers is full: searching 65,536 leases a thousand
    times over would hold the loop up for seconds."""
    house = House(shard_count=0)
    for number in range(60):
        house.shards.acquire(f"c{number}", list(range(1024)))
    held: list[bool] = []
    names = [f"c{number}" for number in range(1024)]
    lines = lines_run(lambda: held.extend(map(house.shards.holds_lease, names)))
    assert sum(held) == 60
    assert lines < 50 * len(names)


def test_configured_shards_need_no_lease_and_survive_one() -> None:
    house = House(static=(3,))
    epoch = house.publisher.state(3).epoch
    assert house.relay.topics == [TOPIC.format(3)]
    assert house.shards.acquire("a", [3])[0].epoch == epoch
    house.shards.release("a", [3])
    assert house.publisher.state(3).epoch == epoch
    assert house.publisher.is_active(3)


@pytest.mark.parametrize("shard", [8, -1, 70_000])
def test_all_or_none(shard: int) -> None:
    house = House()
    with pytest.raises(IpcError, match="does not exist"):
        house.shards.acquire("a", [0, shard])
    assert house.shards.joined() == []


def test_static_sharding_has_all_shards() -> None:
    house = House(shard_count=0)
    house.shards.acquire("a", [40_000])
    assert [health.shard for health in house.shards.health()] == [40_000]
    with pytest.raises(IpcError, match="0 to 65535"):
        house.shards.check(65_536)


def test_without_relay_nothing_can_be_leased() -> None:
    house = House(relay=False)
    with pytest.raises(IpcError, match="relay is off") as refused:
        house.shards.acquire("a", [0])
    assert not refused.value.retriable


def test_coverage_follows_the_mesh() -> None:
    house = House()
    topic = TOPIC.format(1)
    house.relay.mesh[topic] = ["peer"]
    house.shards.relay_changed([topic])  # not joined: ignored
    house.shards.acquire("a", [1])
    assert house.publisher.state(1).coverage[-1][1] is None
    house.relay.mesh.clear()
    house.shards.relay_changed([topic, "another topic"])
    assert house.publisher.state(1).coverage[-1][1] is not None
    house.relay.mesh[topic] = ["peer"]
    house.shards.relay_changed([topic])
    house.shards.release("a", [1])
    assert all(end is not None for _, end in house.publisher.state(1).coverage)


def test_messages_get_their_place_and_are_counted() -> None:
    house = House()
    epoch = house.shards.acquire("a", [1])[0].epoch
    message = WakuMessage(b"payload", "/a/1/b/proto", timestamp=5)
    for size in (1500, 2500):
        house.shards.on_message(TOPIC.format(1), message, size)
    house.shards.on_message(TOPIC.format(2), message, 100)
    batch = house.publisher.replay("m/1/1", epoch, 0)
    assert len(batch.events) == 2
    event = decode_header(batch.events[0][0])
    assert isinstance(event, MessageEvent)
    assert event.message_hash == message_hash(TOPIC.format(1), message)
    values = {(name, *labels.values()): value for name, labels, value in house.registry.collect()}
    assert values["node_messages", "relay"] == 2
    assert values["relay_total_msg_bytes_per_shard", "1"] == 4000
    assert values["relay_avg_msg_bytes_per_shard", "1"] == 2000
    assert values["relay_max_msg_bytes_per_shard", "1"] == 2500
    assert values["histogram_message_size_bucket", "3"] == 2
    assert values["histogram_message_size_bucket", "1"] == 0


@pytest.mark.parametrize(
    ("mesh", "health"),
    [
        (0, "UNHEALTHY"),
        (1, "MINIMALLY_HEALTHY"),
        (3, "MINIMALLY_HEALTHY"),
        (4, "SUFFICIENTLY_HEALTHY"),
    ],
)
def test_health_of_shards(mesh: int, health: str) -> None:
    house = House(shard_count=2)
    house.shards.acquire("a", [1])
    house.relay.mesh[TOPIC.format(1)] = ["peer"] * mesh
    first, second = house.shards.health()
    assert first.health == "NOT_SUBSCRIBED"
    assert (second.shard, second.pubsub_topic) == (1, TOPIC.format(1))
    assert (second.health, second.mesh_peers, second.connected_peers) == (health, mesh, mesh)


# --- messages that peers push ---


def test_without_relay_shards_are_recorded_and_covered_by_filter() -> None:
    house = House(relay=False, with_filter=True)
    topic = TOPIC.format(1)
    (state,) = house.shards.acquire("a", [1])
    assert house.publisher.is_active(1)
    assert state.coverage == ()
    assert house.shards.is_leased("a", topic)
    assert not house.shards.is_leased("b", topic)
    house.filter.interests.add("a", "p", topic, ["content"])
    house.shards.filter_changed([topic])
    assert house.publisher.state(1).coverage[-1][1] is None
    health = house.shards.health()[1]
    assert (health.filter_peers, health.health) == (1, "MINIMALLY_HEALTHY")
    house.filter.interests.lose("p")
    house.shards.filter_changed([topic])
    assert house.publisher.state(1).coverage[-1][1] is not None
    assert house.shards.release("a", [1]) == [1]
    assert house.filter.ended == 1
    assert not house.publisher.is_active(1)


def test_coverage_lasts_while_relay_or_filter_brings_the_shard() -> None:
    house = House(with_filter=True)
    topic = TOPIC.format(1)
    house.shards.acquire("a", [1])
    house.relay.mesh[topic] = ["peer"]
    house.shards.relay_changed([topic])
    for peer_id in ("p", "q"):
        house.filter.interests.add("a", peer_id, topic, ["content"])
    house.shards.filter_changed([topic])
    house.relay.mesh.clear()
    house.shards.relay_changed([topic])
    assert house.publisher.state(1).coverage[-1][1] is None
    assert house.shards.health()[1].health == "SUFFICIENTLY_HEALTHY"
    for peer_id in ("p", "q"):
        house.filter.interests.lose(peer_id)
    house.shards.filter_changed([topic])
    assert house.publisher.state(1).coverage[-1][1] is not None


def test_filter_is_notified_of_expired_leases() -> None:
    house = House(with_filter=True)
    house.shards.acquire("a", [1])
    house.shards.acquire("b", [1])
    house.now = 30.0
    house.shards.acquire("a", [1])
    house.shards.expire()
    assert house.filter.ended == 0
    house.now = 61.0
    house.shards.expire()  # the lease of b: the shard stays, for a
    assert house.filter.ended == 1
    assert house.shards.joined() == [1]


def test_whatever_brings_a_message_it_is_on_the_stream_once() -> None:
    house = House(with_filter=True)
    topic = TOPIC.format(1)
    sunk: list[tuple[bytes, int]] = []
    house.shards.add_sink(lambda _topic, message, _digest, source: sunk.append((message.payload, source)))
    epoch = house.shards.acquire("a", [1])[0].epoch
    house.filter.interests.expect("p", topic, ["content"])
    house.shards.filter_changed([topic])

    def message(payload: bytes) -> tuple[WakuMessage, bytes]:
        made = WakuMessage(payload, "/a/1/b/proto", timestamp=5)
        return made, message_hash(topic, made)

    for payload in (b"relayed", b"relayed", b"own"):
        made, digest = message(payload)
        if payload == b"own":
            house.shards.deliver(topic, made, digest, SOURCE_SELF)
        elif not sunk:
            house.shards.on_message(topic, made, 10)
        assert not house.shards.deliver_filtered(topic, made, digest)
    made, digest = message(b"pushed")
    assert house.shards.deliver_filtered(topic, made, digest)
    assert not house.shards.deliver_filtered(topic, made, digest)
    house.shards.on_message(topic, made, 10)
    events = [decode_header(header) for header, _ in house.publisher.replay("m/1/1", epoch, 0).events]
    assert [event.source for event in events if isinstance(event, MessageEvent)] == [0, 2, 1]
    # What a peer pushed has passed no validator: it goes to no sink until the relay brings it too.
    assert sunk == [(b"relayed", 0), (b"own", SOURCE_SELF), (b"pushed", 0)]
    assert not house.shards.deliver_filtered(TOPIC.format(2), *message(b"elsewhere"))


def test_a_shard_whose_peers_refuse_the_mesh_is_fed_by_their_gossip() -> None:
    house = House()
    topic = TOPIC.format(1)
    (state,) = house.shards.acquire("a", [1])
    house.relay.gossiping = ["nim"]
    house.shards.relay_changed([topic])
    for _ in range(3):  # each minute: the mesh for a moment, then PRUNE
        house.relay.mesh[topic] = ["nim"]
        house.shards.relay_changed([topic])
        house.relay.mesh[topic] = []
        house.shards.relay_changed([topic])
    (state,) = house.shards.acquire("a", [1])
    ((_, end),) = state.coverage
    assert end is None, "one interval, still open"
    house.relay.gossiping = []
    house.shards.relay_changed([topic])
    assert house.shards.acquire("a", [1])[0].coverage[-1][1] is not None
