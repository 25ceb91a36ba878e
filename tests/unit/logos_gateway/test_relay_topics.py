"""Polling by pubsub topic reads the kernel's replay ring."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from ipc_schema.errors import ErrorCode
from ipc_schema.kernel.events import SOURCE_FILTER, SOURCE_RELAY, encode_message_header, stream_name
from ipc_schema.message import WakuMessage
from ipc_schema.streams import StreamState
from ipc_schema.streams.ring import ReplayRing, RingBudget
from ipc_schema.topics import PubsubTopic
from logos_client.exceptions import TrimmedError
from logos_client.kernel import KernelClient
from logos_gateway.relay_topics import RelayTopics
from tests.support.aio import asyncio_test

TOPIC = PubsubTopic(1, 0)


class Kernel:
    """The ring of one shard, and its leases."""

    def __init__(self) -> None:
        self.leases = 0
        self.replays = 0
        self.trim_once = False
        self.restart()

    def restart(self) -> None:
        self.epoch = bytes([self.replays] * 8)
        self.ring = ReplayRing(RingBudget(1 << 20))

    def come(self, *payloads: bytes, source: int = SOURCE_RELAY) -> None:
        for payload in payloads:
            seq = self.ring.last + 1
            message = WakuMessage(payload, "/a/1/b/c")
            header = encode_message_header(b"i" * 16, self.epoch, seq, 1, message, b"h" * 32, source)
            self.ring.append(seq, header, payload)

    async def lease(self, shards: Iterable[int]) -> list[StreamState]:
        assert list(shards) == [0]
        self.leases += 1
        return [
            StreamState(
                stream=stream_name(1, 0),
                shard=0,
                epoch=self.epoch,
                first=self.ring.first,
                last=self.ring.last,
                coverage=(),
            )
        ]

    async def release(self, shards: Iterable[int]) -> None:
        assert list(shards) == [0]
        self.leases -= 1

    async def replay(self, _stream: str, epoch: bytes, after: int) -> tuple[list[tuple[bytes, bytes]], bool]:
        assert epoch == self.epoch
        self.replays += 1
        if self.trim_once:
            self.trim_once = False
            raise TrimmedError(ErrorCode.TRIMMED, "gone")
        batch = self.ring.read(after, max_events=2)
        return batch.events, batch.complete


async def _subscribed(capacity: int = 3) -> tuple[Kernel, KernelClient, RelayTopics]:
    kernel = Kernel()
    client = cast("KernelClient", cast("Any", kernel))
    kernel.come(b"before")
    topics = RelayTopics(capacity)
    assert await topics.subscribe(client, TOPIC)
    return kernel, client, topics


async def _taken(topics: RelayTopics, client: KernelClient) -> list[bytes]:
    taken = await topics.take(client, str(TOPIC))
    assert taken is not None
    return [one.payload for one in taken]


@asyncio_test()
async def test_a_poll_has_the_newest_since_the_last_one() -> None:
    kernel, client, topics = await _subscribed()
    assert await _taken(topics, client) == []
    assert kernel.replays == 0
    kernel.come(b"1", b"2")
    assert await _taken(topics, client) == [b"1", b"2"]
    kernel.come(*(b"%d" % number for number in range(3, 9)))
    assert await _taken(topics, client) == [b"6", b"7", b"8"]
    assert topics.dropped == 3
    assert await _taken(topics, client) == []


@asyncio_test()
async def test_what_came_by_filter_takes_no_place() -> None:
    kernel, client, topics = await _subscribed()
    kernel.come(b"1", b"2", b"3")
    kernel.come(b"x", b"y", b"z", source=SOURCE_FILTER)
    assert await _taken(topics, client) == [b"1", b"2", b"3"]
    assert topics.dropped == 0


@asyncio_test()
async def test_a_ring_that_has_moved_on_is_read_again() -> None:
    kernel, client, topics = await _subscribed()
    kernel.come(b"1")
    kernel.trim_once = True
    assert await _taken(topics, client) == [b"1"]


@asyncio_test()
async def test_a_restarted_kernel_is_read_from_its_first_message() -> None:
    kernel, client, topics = await _subscribed()
    kernel.come(b"1")
    assert await _taken(topics, client) == [b"1"]
    kernel.restart()
    kernel.come(b"new")
    kernel.trim_once = True
    assert await _taken(topics, client) == [b"new"]
    assert topics.dropped == 1


@asyncio_test()
async def test_one_lease_for_each_topic() -> None:
    kernel, client, topics = await _subscribed()
    assert await topics.subscribe(client, TOPIC)
    await _taken(topics, client)
    assert kernel.leases == 1
    await topics.unsubscribe(client, TOPIC)
    assert kernel.leases == 0
    assert await topics.take(client, str(TOPIC)) is None
    assert str(TOPIC) not in topics
