"""The service: pushes over one stream each, and when subscribers are removed. In-memory hosts, and a clock
that jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from ipc_schema.config.ratelimits import RateLimit
from ipc_schema.kernel.events import SOURCE_FILTER, SOURCE_RELAY, SOURCE_SELF
from ipc_schema.message import WakuMessage, message_hash
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Direction, PeerConnection, PeerIdText, Stream, StreamClosed
from kernel_proc.protocols.filter.codec import (
    PUSH_PROTOCOL,
    SUBSCRIBE_PROTOCOL,
    FilterRequest,
    FilterResponse,
    Push,
    RequestType,
    decode_push,
    decode_response,
    encode_request,
)
from kernel_proc.protocols.filter.push_link import PushParams
from kernel_proc.protocols.filter.service import FilterService
from kernel_proc.protocols.filter.subscriptions import FilterLimits
from kernel_proc.protocols.framing import MessageReader, encode_frame
from kernel_proc.protocols.requests import NoAnswer, call
from tests.support.memory_hosts import MemoryHost, MemoryNetwork, MemoryStream, memory_network
from tests.support.mock_clock import mock_clock_test

SHARD = "/waku/2/rs/1/0"
A, B = "/app/1/a/proto", "/app/1/b/proto"


class Client:
    """A light client that subscribes and records pushes, unless instructed not to read."""

    def __init__(self, network: MemoryNetwork, name: str, *, takes_pushes: bool = True) -> None:
        self.host = network.host(name)
        self.name = name
        self.pushes: list[Push] = []
        self.streams = 0
        self.ended = 0
        """Of the streams, those that were closed and not reset."""
        self.reads = trio.Event()
        self.reads.set()
        if takes_pushes:
            self.host.set_stream_handler(PUSH_PROTOCOL, self._serve)

    async def _serve(self, stream: Stream) -> None:
        self.streams += 1
        reader = MessageReader(stream, 1 << 20)
        while True:
            await self.reads.wait()
            body = await reader.read()
            if body is None:
                self.ended += 1
                return
            self.pushes.append(decode_push(body))

    async def ask(self, kind: RequestType, *contents: str, topic: str | None = SHARD) -> FilterResponse:
        request = encode_request(FilterRequest("id", kind, topic, contents))
        body = await call(
            self.host,
            "server",
            (SUBSCRIBE_PROTOCOL,),
            request,
            decode=bytes,
            max_response=1000,
            deadline=5.0,
        )
        return decode_response(body)

    async def subscribe(self, *contents: str) -> None:
        assert (await self.ask(RequestType.SUBSCRIBE, *contents)).status == 200

    @property
    def payloads(self) -> list[bytes]:
        return [push.message.payload for push in self.pushes]


class ServerHost(MemoryHost):
    """A host on which opening a stream to a peer that is `stuck` takes its time, and comes to nothing."""

    def __init__(self, network: MemoryNetwork) -> None:
        super().__init__(network, "server")
        network.hosts["server"] = self
        self.stuck: set[str] = set()

    async def open_stream(
        self, peer_id: PeerIdText, protocols: Sequence[str], *, deadline: float = 10.0
    ) -> MemoryStream:
        if peer_id in self.stuck:
            await trio.sleep(deadline)
            raise StreamClosed("no agreement")
        return await super().open_stream(peer_id, protocols, deadline=deadline)


class House:
    def __init__(self, network: MemoryNetwork, params: PushParams, rate_limit: RateLimit | None) -> None:
        self.network = network
        self.host = ServerHost(network)
        self.service = FilterService(
            self.host,
            Registry(),
            limits=FilterLimits(),
            params=params,
            rate_limit=rate_limit,
        )
        self.service.requests.mount()

    def message(self, payload: bytes, content: str = A, source: int = SOURCE_RELAY) -> None:
        message = WakuMessage(payload, content, timestamp=7)
        self.service.on_message(SHARD, message, message_hash(SHARD, message), source)

    def leaves(self, client: Client) -> None:
        self.host.away.add(client.name)
        self.service.peer_disconnected(client.name, "left")

    def returns(self, client: Client) -> None:
        self.host.away.discard(client.name)
        self.service.peer_connected(
            PeerConnection(client.name, "/ip4/127.0.0.1/tcp/1", "127.0.0.1", Direction.INBOUND, 0.0)
        )
        identity = self.host.identity(client.name)
        assert identity is not None
        self.service.peer_identified(identity)

    def counter(self, name: str) -> int:
        return self.service.counters[name]


@asynccontextmanager
async def house(
    params: PushParams | None = None, rate_limit: RateLimit | None = None
) -> AsyncIterator[House]:
    async with memory_network() as network, trio.open_nursery() as nursery:
        made = House(network, params or PushParams(), rate_limit)
        nursery.start_soon(made.service.run)
        await trio.testing.wait_all_tasks_blocked()
        yield made
        nursery.cancel_scope.cancel()


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


@mock_clock_test
async def test_messages_go_to_subscribers_in_order_on_one_stream() -> None:
    async with house() as one:
        ann, bob = Client(one.network, "ann"), Client(one.network, "bob")
        await ann.subscribe(A)
        await bob.subscribe(A, B)
        for number in range(10):
            one.message(b"a%d" % number)
            one.message(b"b%d" % number, B)
            if number % 3 == 0:
                await settle()
        await settle()
        assert ann.payloads == [b"a%d" % number for number in range(10)]
        assert [p for p in bob.payloads if p.startswith(b"b")] == [b"b%d" % n for n in range(10)]
        assert len(bob.payloads) == 20
        assert (ann.streams, bob.streams) == (1, 1)
        assert {push.pubsub_topic for push in ann.pushes} == {SHARD}
        assert one.counter("sent") == 30


@mock_clock_test
async def test_own_messages_are_pushed_and_what_came_by_filter_is_not() -> None:
    async with house() as one:
        ann = Client(one.network, "ann")
        await ann.subscribe(A)
        one.message(b"own", source=SOURCE_SELF)
        one.message(b"filtered", source=SOURCE_FILTER)
        await settle()
        assert ann.payloads == [b"own"]


@mock_clock_test
async def test_a_message_is_pushed_once_within_two_minutes() -> None:
    async with house() as one:
        ann = Client(one.network, "ann")
        await ann.subscribe(A)
        one.message(b"x")
        await trio.sleep(100)
        one.message(b"x")
        await settle()
        assert ann.payloads == [b"x"]
        assert one.counter("repeats") == 1
        await ann.ask(RequestType.PING)
        await trio.sleep(250)
        one.message(b"x")
        await settle()
        assert ann.payloads == [b"x", b"x"]


@mock_clock_test
async def test_no_pushes_after_unsubscribing() -> None:
    async with house() as one:
        ann = Client(one.network, "ann")
        await ann.subscribe(A)
        one.message(b"1")
        await settle()
        assert (await ann.ask(RequestType.UNSUBSCRIBE_ALL)).status == 200
        one.message(b"2")
        await settle()
        assert ann.payloads == [b"1"]
        await ann.subscribe(A)
        one.message(b"3")
        await settle()
        assert ann.payloads == [b"1", b"3"]


@mock_clock_test
async def test_earlier_pushes_can_be_read_after_unsubscribing() -> None:
    async with house() as one:
        ann = Client(one.network, "ann")
        await ann.subscribe(A)
        ann.reads = trio.Event()
        one.message(b"1")
        await settle()
        assert (await ann.ask(RequestType.UNSUBSCRIBE, A)).status == 200
        await settle()
        ann.reads.set()
        await settle()
        assert ann.payloads == [b"1"]
        assert ann.ended == 1


@mock_clock_test
async def test_a_subscriber_that_does_not_read_is_bounded_and_does_not_affect_others() -> None:
    async with house(PushParams(queue_count=10)) as one:
        hung, ann = Client(one.network, "hung"), Client(one.network, "ann")
        await hung.subscribe(A)
        await ann.subscribe(A)
        one.host.stuck.add("hung")
        for number in range(50):
            one.message(b"%d" % number)
            await settle()
        assert ann.payloads == [b"%d" % number for number in range(50)]
        assert one.counter("dropped") == 40
        await trio.sleep(121)
        assert one.service.table.peers() == ["ann"]
        assert one.counter("dropped") == 50


@mock_clock_test
async def test_a_subscriber_has_a_minute_to_come_back() -> None:
    async with house() as one:
        ann, bob = Client(one.network, "ann"), Client(one.network, "bob")
        await ann.subscribe(A)
        await bob.subscribe(A)
        one.leaves(ann)
        one.leaves(bob)
        one.message(b"meanwhile")
        await trio.sleep(30)
        one.returns(ann)
        await settle()
        assert ann.payloads == [b"meanwhile"]
        await trio.sleep(100)
        assert one.service.table.peers() == ["ann"]
        assert one.counter("unreachable") == 1
        assert one.counter("dropped") == 1


@mock_clock_test
async def test_a_subscriber_without_filter_push_is_removed_at_the_next_sweep() -> None:
    async with house() as one:
        ann, bob = Client(one.network, "ann"), Client(one.network, "bob", takes_pushes=False)
        await ann.subscribe(A)
        await bob.subscribe(A)
        await trio.sleep(61)
        assert one.service.table.peers() == ["ann"]
        assert one.counter("unsupported") == 1


@mock_clock_test
async def test_the_silent_are_forgotten_after_five_minutes() -> None:
    async with house() as one:
        ann, bob = Client(one.network, "ann"), Client(one.network, "bob")
        await ann.subscribe(A)
        await bob.subscribe(A)
        for _ in range(6):
            await trio.sleep(60)
            assert (await ann.ask(RequestType.PING)).status == 200
        await trio.sleep(1)
        assert one.service.table.peers() == ["ann"]
        assert one.counter("idle") == 1
        assert (await bob.ask(RequestType.PING)).status == 404


@mock_clock_test
async def test_over_the_rate_limit_and_unreadable() -> None:
    async with house(rate_limit=RateLimit(2, 1.0)) as one:
        ann, bob = Client(one.network, "ann"), Client(one.network, "bob")
        assert [(await ann.ask(RequestType.PING)).status for _ in range(3)] == [404, 404, 429]
        assert (await ann.ask(RequestType.PING)).request_id == "N/A"
        assert (await bob.ask(RequestType.PING)).status == 404  # a bucket for each
        await trio.sleep(1)
        assert (await ann.ask(RequestType.PING)).status == 404
        try:
            await call(
                bob.host,
                "server",
                (SUBSCRIBE_PROTOCOL,),
                b"\xff\xff",
                decode=bytes,
                max_response=99,
                deadline=5.0,
            )
        except NoAnswer:
            assert one.counter("undecodable") == 1
        else:
            raise AssertionError("nwaku does not answer this")


@mock_clock_test
async def test_a_stream_that_the_subscriber_ends_is_replaced() -> None:
    async with house() as one:
        ann = Client(one.network, "ann")
        got: list[bytes] = []

        async def take_one(stream: Stream) -> None:
            body = await MessageReader(stream, 1 << 20).read()
            assert body is not None
            got.append(decode_push(body).message.payload)

        ann.host.set_stream_handler(PUSH_PROTOCOL, take_one)
        await ann.subscribe(A)
        for number in range(3):
            one.message(b"%d" % number)
            await settle()
        assert got == [b"0", b"1", b"2"]
        assert one.counter("streams") == 3


@mock_clock_test
async def test_a_subscriber_that_talks_on_the_push_stream_loses_it() -> None:
    async with house() as one:
        ann = Client(one.network, "ann")

        async def chatter(stream: Stream) -> None:
            while True:
                await stream.write(bytes(1024))

        ann.host.set_stream_handler(PUSH_PROTOCOL, chatter)
        await ann.subscribe(A)
        one.message(b"x")
        await settle()
        assert 64 <= one.counter("unexpected") <= 66


def test_a_frame_is_what_clients_read() -> None:
    assert encode_frame(b"x") == b"\x01x"
