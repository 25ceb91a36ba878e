"""relay.publish: outcomes, refusals, and what gets onto the stream."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, cast

import pytest
import trio

from ipc_schema.errors import IpcError
from ipc_schema.hello import NetworkInfo
from ipc_schema.kernel.events import SOURCE_SELF, MessageEvent, decode_header
from ipc_schema.message import WakuMessage, decode_message, encode_message
from kernel_proc.ipc.events import EventPublisher
from kernel_proc.metrics import Registry
from kernel_proc.publishing import Publishing, PublishOutcome
from kernel_proc.relay.messages import PublishResult, RelayMessageInvalid, RelayMessageTooLarge
from kernel_proc.relay.rpc_writer import fits_rpc
from kernel_proc.relay.service import RelayService
from kernel_proc.sender import MessageSender
from kernel_proc.shards import Shards
from tests.support.mock_clock import mock_clock_test

MESSAGE = WakuMessage(b"payload", "/a/1/b/proto", timestamp=7)


class Relay:
    """A relay with a settable number of peers that remembers what it has seen."""

    def __init__(self) -> None:
        self.peers = 1
        self.seen: set[bytes] = set()
        self.sent: list[tuple[str, bytes]] = []
        self.limit = 1 << 20
        self.delay = 0.0
        self.invalid = False

    async def begin_publish(
        self, topic: str, data: bytes, *, message: WakuMessage | None = None, force: bool = False
    ) -> PublishResult:
        if len(data) > self.limit:
            raise RelayMessageTooLarge(self.limit)
        if self.invalid:
            raise RelayMessageInvalid("refused by a validator")
        message_id = sha256(data).digest()
        duplicate = message_id in self.seen
        self.seen.add(message_id)
        await trio.sleep(self.delay)
        if duplicate and not force:
            return PublishResult(message_id, 0, True)
        if self.peers:
            self.sent.append((topic, data))
        return PublishResult(message_id, self.peers, duplicate)

    def subscribe(self, topic: str) -> bool:
        return True

    def unsubscribe(self, topic: str) -> bool:
        return True

    def mesh_peers(self, topic: str) -> list[str]:
        return []

    def topic_peers(self, topic: str) -> list[str]:
        return []


class House:
    def __init__(self, shard_count: int = 8, *, rln: bool = False, relay: bool = True) -> None:
        registry = Registry("")
        self.relay = Relay()
        self.publisher = EventPublisher(
            instance=bytes(16), cluster=1, shard_count=shard_count, replay_bytes=1 << 20, registry=registry
        )
        self.shards = Shards(
            self.publisher,
            cluster=1,
            shard_count=shard_count,
            lease_ttl=60,
            static=(),
            registry=registry,
            clock=lambda: 0.0,
        )
        self.shards.start(cast("RelayService", self.relay))
        self.publishing = Publishing(
            MessageSender(cast("RelayService", self.relay), self.shards) if relay else None,
            self.shards,
            NetworkInfo(cluster=1, shard_count=shard_count, max_message_size=10_000, rln_required=rln),
            registry,
            clock_ns=lambda: 99,
        )

    def stream(self, shard: int) -> list[MessageEvent]:
        state = self.publisher.state(shard)
        events = [
            decode_header(header) for header, _ in self.publisher.replay(state.stream, state.epoch, 0).events
        ]
        return [event for event in events if isinstance(event, MessageEvent)]

    async def publish(self, message: WakuMessage, **where: Any) -> PublishOutcome:
        done = self.publishing.publish(message, **where)
        return done if isinstance(done, PublishOutcome) else await done

    async def refused(self, message: WakuMessage = MESSAGE, **where: object) -> IpcError:
        with pytest.raises(IpcError) as refused:
            await self.publish(message, **where)
        return refused.value


@mock_clock_test
async def test_published_to_the_shard_of_the_content_topic() -> None:
    house = House()
    shard = 1
    done = await house.publish(MESSAGE)
    shard = int(done.pubsub_topic.rpartition("/")[2])
    ((topic, data),) = house.relay.sent
    assert topic == done.pubsub_topic == f"/waku/2/rs/1/{shard}"
    assert decode_message(data) == MESSAGE
    assert (done.peers, done.duplicate, done.timestamp) == (1, False, 7)


@mock_clock_test
async def test_an_unstamped_message_is_stamped() -> None:
    house = House()
    done = await house.publish(MESSAGE._replace(timestamp=0))
    assert done.timestamp == 99
    assert decode_message(house.relay.sent[0][1]).timestamp == 99


@mock_clock_test
async def test_own_messages_are_on_the_stream_once() -> None:
    house = House()
    house.shards.acquire("a", [3])
    first = await house.publish(MESSAGE, shard=3)
    again = await house.publish(MESSAGE, pubsub_topic="/waku/2/rs/1/3")
    forced = await house.publish(MESSAGE, shard=3, force=True)
    assert again == PublishOutcome(first.message_hash, 7, first.pubsub_topic, 0, True)
    assert forced == first._replace(duplicate=True)
    assert len(house.relay.sent) == 2
    (event,) = house.stream(3)
    assert (event.source, event.message_hash) == (SOURCE_SELF, first.message_hash)


@mock_clock_test
async def test_a_message_without_recipients_is_on_the_stream_and_sent_on_retry() -> None:
    house = House()
    house.shards.acquire("a", [3])
    house.relay.peers = 0
    for _ in range(2):
        error = await house.refused(shard=3)
        assert error.code == "no_peers"
        assert error.retriable
        assert error.detail["timestamp"] == 7
    house.relay.peers = 2
    done = await house.publish(MESSAGE, shard=3)
    assert (done.peers, done.message_hash) == (2, error.detail["message_hash"])
    assert len(house.stream(3)) == 1
    # now it is out, and a repeat is only a repeat
    assert (await house.publish(MESSAGE, shard=3)).peers == 0
    assert len(house.relay.sent) == 1


@mock_clock_test
async def test_publishing_a_message_known_from_the_network_is_a_duplicate() -> None:
    """Seen there first: not sent, not a second time on the stream, no error."""
    house = House()
    house.shards.acquire("a", [3])
    house.relay.peers = 0
    await house.refused(shard=3)
    other = House()
    other.shards.acquire("a", [3])
    other.relay.seen = house.relay.seen
    done = await other.publish(MESSAGE, shard=3)
    assert done.duplicate
    assert other.stream(3) == []


@mock_clock_test
async def test_a_caller_that_gives_up_does_not_keep_it_from_the_stream() -> None:
    house = House()
    house.shards.acquire("a", [3])
    house.relay.delay = 5.0
    with trio.move_on_after(1.0):
        await house.publish(MESSAGE, shard=3)
    assert len(house.stream(3)) == 1


@mock_clock_test
async def test_a_shard_that_is_not_recorded_can_be_published_on() -> None:
    house = House()
    assert (await house.publish(MESSAGE, shard=5)).peers == 1
    assert house.publisher.state(5).last == 0


@mock_clock_test
async def test_what_fits_alone_and_not_in_its_frame_is_refused_before_it_is_sent_anywhere() -> None:
    """Also for lightpush, whose service would find no peer that takes it."""
    house = House()
    prepare = house.publishing.prepare
    empty = len(prepare(MESSAGE._replace(payload=bytes(9_000))).data) - 9_000
    topic = prepare(MESSAGE).pubsub_topic.encode()
    most = next(n for n in range(9_990, 9_000, -1) if fits_rpc(topic, n + empty, 10_000))
    assert len(prepare(MESSAGE._replace(payload=bytes(most))).data) < 10_000
    over = MESSAGE._replace(payload=bytes(most + 1))
    assert len(encode_message(over)) < 10_000
    with pytest.raises(IpcError, match="Message size exceeded maximum of 10000 bytes"):
        prepare(over)


@mock_clock_test
async def test_sizes() -> None:
    house = House()
    error = await house.refused(MESSAGE._replace(payload=bytes(10_001)))
    assert (error.code, error.message) == ("too_large", "Message size exceeded maximum of 10000 bytes")
    house.relay.limit = 5_000
    error = await house.refused(MESSAGE._replace(payload=bytes(6_000)))
    assert (error.code, error.message) == ("too_large", "Message size exceeded maximum of 5000 bytes")


@pytest.mark.parametrize(
    ("message", "where"),
    [
        (MESSAGE._replace(content_topic=""), {}),
        (MESSAGE._replace(content_topic="x"), {}),
        (MESSAGE._replace(content_topic="\ud800"), {"shard": 1}),
        (MESSAGE._replace(payload=b""), {}),
        (MESSAGE._replace(meta=bytes(65)), {}),
        (MESSAGE, {"shard": 8}),
        (MESSAGE, {"pubsub_topic": "/waku/2/rs/2/1"}),
        (MESSAGE, {"pubsub_topic": "nonsense"}),
        (MESSAGE, {"pubsub_topic": "/waku/2/rs/1/1", "shard": 2}),
    ],
)
def test_refusals(message: WakuMessage, where: dict[str, object]) -> None:
    @mock_clock_test
    async def check() -> None:
        house = House()
        assert (await house.refused(message, **where)).code == "bad_request"
        assert house.relay.sent == []

    check()


@mock_clock_test
async def test_other_refusals() -> None:
    house = House()
    house.relay.invalid = True
    assert (await house.refused()).code == "bad_request"
    assert (await House(relay=False).refused()).code == "not_ready"
    static = await House(shard_count=0).refused()
    assert "Pubsub topic must be specified when static sharding is enabled" in static.message
    limited = House(rln=True)
    assert (await limited.refused()).code == "rln_required"
    assert (await limited.publish(MESSAGE._replace(proof=b"proof"))).peers == 1
