"""Shards: holders, and what follows from them for relay, recording and coverage."""

from __future__ import annotations

import pytest

from ipc_schema.errors import IpcError
from ipc_schema.kernel.events import MessageEvent, decode_header
from ipc_schema.message import WakuMessage, message_hash
from kernel_proc.ipc.events import EventPublisher
from kernel_proc.metrics import Registry
from kernel_proc.shards import Shards

TOPIC = "/waku/2/rs/1/{}"


class Relay:
    """The relay as far as shards know it."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.mesh: dict[str, list[str]] = {}

    def subscribe(self, topic: str) -> bool:
        self.topics.append(topic)
        return True

    def unsubscribe(self, topic: str) -> bool:
        self.topics.remove(topic)
        return True

    def mesh_peers(self, topic: str) -> list[str]:
        return self.mesh.get(topic, [])

    def topic_peers(self, topic: str) -> list[str]:
        return self.mesh.get(topic, [])


class House:
    """Shards on a relay of the test, with a clock of the test."""

    def __init__(self, static: tuple[int, ...] = (), shard_count: int = 8, *, relay: bool = True) -> None:
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
        if relay:
            self.shards.start(self.relay)

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


def test_leases_lapse_unless_renewed() -> None:
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
    house.shards.relay_changed([topic])  # not joined: nobody's business
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
