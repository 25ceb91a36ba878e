"""The client: what it asks of peers, what it takes from them, and what it gives up. A clock that jumps."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio

from ipc_schema.message import WakuMessage, encode_message, message_hash
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Stream, StreamClosed
from kernel_proc.protocols.filter.client import FilterClient, LeaseEnded
from kernel_proc.protocols.filter.codec import (
    PUSH_PROTOCOL,
    SUBSCRIBE_PROTOCOL,
    FilterRequest,
    FilterResponse,
    RequestType,
    decode_request,
    encode_push,
    encode_response,
)
from kernel_proc.protocols.filter.pushes import PushSink
from kernel_proc.protocols.filter.subscriptions import FilterLimits, Subscriptions
from kernel_proc.protocols.framing import MessageReader, encode_frame
from kernel_proc.protocols.peer_select import PeerRanking, ServicePeerChoice
from kernel_proc.protocols.requests import AllFailed, RequestRefused
from tests.support.memory_hosts import MemoryNetwork, memory_network
from tests.support.mock_clock import mock_clock_test

SHARD = "/waku/2/rs/1/0"
A, B = "/app/1/a/proto", "/app/1/b/proto"
MAX_SIZE = 10_000


class Server:
    """A filter service with a table like ours. `answer` may be replaced by a status, or by silence."""

    def __init__(self, network: MemoryNetwork, name: str, limits: FilterLimits | None = None) -> None:
        self.host = network.host(name)
        self.name = name
        self.table = Subscriptions(limits or FilterLimits())
        self.asked: list[FilterRequest] = []
        self.status: int | None = None
        self.silent = False
        self.wrong_id = False
        self.a_second = False
        """Serve one request a second and answer the others 429, as go-waku does."""
        self.refused = 0
        self._last = float("-inf")
        self.host.set_stream_handler(SUBSCRIBE_PROTOCOL, self._serve)

    async def _serve(self, stream: Stream) -> None:
        body = await MessageReader(stream, 1 << 20).read()
        assert body is not None
        request = decode_request(body)
        self.asked.append(request)
        if self.silent:
            await trio.sleep_forever()
        if self.a_second and trio.current_time() - self._last < 1:
            self.refused += 1
            response = FilterResponse("N/A", 429)
        elif self.status is not None:
            response = FilterResponse("N/A" if self.status == 429 else request.request_id, self.status)
        else:
            self._last = trio.current_time()
            response = self.table.handle(stream.peer_id, request, trio.current_time())
        if self.wrong_id:
            response = response._replace(request_id="another")
        await stream.write(encode_frame(encode_response(response)))

    @property
    def kinds(self) -> list[int]:
        return [request.kind for request in self.asked]

    async def push(self, *frames: bytes) -> bool:
        """Push frames on one stream and see it to its end; False if it was reset."""
        stream = await self.host.open_stream("us", (PUSH_PROTOCOL,))
        try:
            for frame in frames:
                await stream.write(encode_frame(frame))
            await stream.close()
            return await stream.read() == b""
        except StreamClosed:
            return False


def push(payload: bytes, content: str = A, topic: str | None = SHARD) -> bytes:
    message = encode_message(WakuMessage(payload, content, timestamp=7))
    if topic is None:
        return b"\x0a" + bytes([len(message)]) + message
    return encode_push(message, topic)


class House:
    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network
        self.host = network.host("us")
        self.delivered: list[bytes] = []
        self.leased = {"x", "y"}
        self.changed: Counter[str] = Counter()
        self.ranking = PeerRanking(trio.current_time, Random(1))
        self.peers = ServicePeerChoice(self.host, self.ranking, lambda _peer: None, {})
        self.client = FilterClient(
            self.host,
            self.peers,
            Registry(),
            PushSink(self._deliver, MAX_SIZE, lambda _topic, message: message.payload != b"forged"),
            is_leased=lambda consumer, _topic: consumer in self.leased,
            changed=lambda topics: self.changed.update(topics),
        )
        self.client.mount()

    def _deliver(self, topic: str, message: WakuMessage, digest: bytes) -> bool:
        assert digest == message_hash(topic, message)
        new = message.payload not in self.delivered
        self.delivered.append(message.payload)
        return new

    async def subscribe(
        self,
        *contents: str,
        consumer: str = "x",
        peer: str | None = None,
        exclude: tuple[str, ...] = (),
        seconds: float = 30.0,
    ) -> str:
        deadline = trio.current_time() + seconds
        return await self.client.subscribe(
            consumer, SHARD, 0, contents, peer=peer, exclude=exclude, deadline=deadline
        )

    async def unsubscribe(
        self, *contents: str, consumer: str = "x", peer: str | None = None
    ) -> dict[str, str]:
        return await self.client.unsubscribe(consumer, {SHARD: contents}, peer=peer)

    def counter(self, name: str) -> int:
        return self.client.counters[name]


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    async with memory_network() as network, trio.open_nursery() as nursery:
        made = House(network)
        nursery.start_soon(made.client.run)
        await trio.testing.wait_all_tasks_blocked()
        yield made
        nursery.cancel_scope.cancel()


@mock_clock_test
async def test_only_subscribed_pushes_are_accepted() -> None:
    async with house() as one:
        server, stranger = Server(one.network, "s"), Server(one.network, "t")
        assert not await stranger.push(push(b"unasked"))
        assert await one.subscribe(A, peer="s") == "s"
        assert await server.push(
            push(b"1"), push(b"other", B), push(b"elsewhere", A, "/waku/2/rs/1/1"), push(b"1"), push(b"2")
        )
        assert not await stranger.push(push(b"still unasked"))
        assert one.delivered == [b"1", b"1", b"2"]
        counters = one.client.counters
        assert (counters["delivered"], counters["not_new"], counters["unsolicited"]) == (2, 1, 4)


@mock_clock_test
async def test_a_push_without_a_topic_is_taken_when_it_can_only_be_one() -> None:
    async with house() as one:
        server = Server(one.network, "s")
        await one.subscribe(A)
        await server.push(push(b"1", topic=None), push(b"2", B, topic=None))
        assert one.delivered == [b"1"]


@mock_clock_test
async def test_bad_pushes_are_counted_and_the_stream_goes_on() -> None:
    async with house() as one:
        server = Server(one.network, "s")
        await one.subscribe(A)
        assert await server.push(b"\xff\xff", push(b"forged"), push(bytes(MAX_SIZE)), push(b"good"))
        assert one.delivered == [b"good"]
        counters = one.client.counters
        assert (counters["malformed"], counters["invalid"], counters["oversize"]) == (1, 1, 1)
        assert not await server.push(bytes(MAX_SIZE + 70_000))
        assert one.counter("malformed") == 2


@mock_clock_test
async def test_pushes_may_come_before_the_answer() -> None:
    async with house() as one:
        server = Server(one.network, "s")

        async def push_first(stream: Stream) -> None:
            body = await MessageReader(stream, 1 << 20).read()
            assert body is not None
            request = decode_request(body)
            assert await server.push(push(b"early"))
            await stream.write(encode_frame(encode_response(FilterResponse(request.request_id, 200))))

        server.host.set_stream_handler(SUBSCRIBE_PROTOCOL, push_first)
        await one.subscribe(A)
        assert one.delivered == [b"early"]


@mock_clock_test
async def test_only_new_topics_are_requested_and_only_the_last_consumer_unsubscribes() -> None:
    async with house() as one:
        server = Server(one.network, "s")
        await one.subscribe(A, consumer="x")
        await one.subscribe(A, B, consumer="y")
        assert [request.content_topics for request in server.asked] == [(A,), (B,)]
        assert await one.unsubscribe(A, consumer="x") == {}
        assert len(server.asked) == 2
        await one.unsubscribe(A, consumer="y")
        assert server.asked[-1].kind == RequestType.UNSUBSCRIBE
        assert server.table.criteria_of("us") == [(SHARD, B)]
        await one.unsubscribe(B, consumer="y")
        assert server.asked[-1].kind == RequestType.UNSUBSCRIBE_ALL
        assert "us" not in server.table
        assert not one.client.interests


@mock_clock_test
async def test_asking_again_makes_sure_and_repairs() -> None:
    async with house() as one:
        server = Server(one.network, "s")
        await one.subscribe(A, B)
        await one.subscribe(A)
        assert server.kinds == [RequestType.SUBSCRIBE, RequestType.PING]
        server.table.remove("us")
        await one.subscribe(A)
        assert server.table.criteria_of("us") == [(SHARD, A)]
        assert one.client.interests.strength(SHARD) == 0  # B is still wanted, but no peer has it
        await one.subscribe(B)
        assert one.client.interests.strength(SHARD) == 1


@mock_clock_test
async def test_more_than_a_hundred_topics_take_several_requests() -> None:
    async with house() as one:
        server = Server(one.network, "s")
        contents = [f"/app/1/{number}/proto" for number in range(250)]
        await one.subscribe(*contents)
        assert [len(request.content_topics) for request in server.asked] == [100, 100, 50]
        await one.unsubscribe(*contents[:150])
        assert [len(request.content_topics) for request in server.asked[3:]] == [100, 50]
        assert server.table.criteria == 100


@mock_clock_test
async def test_half_a_subscription_is_taken_back() -> None:
    async with house() as one:
        server = Server(one.network, "s", FilterLimits(max_criteria=150))
        with pytest.raises(AllFailed, match="503"):
            await one.subscribe(*(f"/app/1/{number}/proto" for number in range(250)))
        await trio.sleep(10)
        assert "us" not in server.table
        assert not one.client.interests


@mock_clock_test
async def test_the_next_peer_when_one_fails_and_none_that_is_excluded() -> None:
    async with house() as one:
        servers = {name: Server(one.network, name) for name in ("p", "q", "r")}
        servers["p"].status, servers["q"].silent = 503, True
        for _ in range(3):
            assert await one.subscribe(A, seconds=100) == "r"
        with pytest.raises(AllFailed):
            await one.subscribe(A, exclude=("r",), seconds=100)
        servers["p"].status = None
        assert await one.subscribe(A, exclude=("r",), seconds=100) == "p"
        assert set(one.client.interests.holders(SHARD)) == {"p", "r"}
        assert one.client.interests.strength(SHARD) == 2


@mock_clock_test
async def test_a_refusal_of_the_request_as_such_ends_the_search() -> None:
    async with house() as one:
        servers = [Server(one.network, name) for name in ("p", "q")]
        for server in servers:
            server.status = 400
        with pytest.raises(AllFailed) as failed:
            await one.subscribe(A)
        assert [one.error.outcome for one in failed.value.attempts] == [{"status": 400}]
        assert sum(len(server.asked) for server in servers) == 1


@mock_clock_test
async def test_an_answer_to_another_request_is_none_but_for_429() -> None:
    async with house() as one:
        server = Server(one.network, "s")
        server.wrong_id = True
        with pytest.raises(AllFailed, match="another request id"):
            await one.subscribe(A)
        server.wrong_id, server.status = False, 429
        with pytest.raises(AllFailed) as failed:
            await one.subscribe(A)
        assert isinstance(failed.value.attempts[0].error, RequestRefused)
        assert [one.error.outcome for one in failed.value.attempts] == [{"status": 429}]


@mock_clock_test
async def test_a_service_of_one_request_a_second_is_asked_in_its_pace() -> None:
    """go-waku's limit, with a subscription that takes three requests at once."""
    async with house() as one:
        server = Server(one.network, "s")
        server.a_second = True
        contents = [f"/test/1/{n}/proto" for n in range(250)]
        assert await one.subscribe(*contents) == "s"
        assert len(server.table.criteria_of("us")) == 250
        assert one.counter("lost") == 0
        assert server.refused <= 6


@mock_clock_test
async def test_a_subscription_survives_that_its_server_answers_429_for_a_while() -> None:
    async with house() as one:
        server = Server(one.network, "s")
        await one.subscribe(A)
        server.status = 429
        await trio.sleep(180)
        assert server.kinds.count(RequestType.PING) > 6
        assert one.counter("lost") == 0
        assert one.client.interests.strength(SHARD) == 1
        server.status = None
        assert (await one.client.ping(["s"]))[0].status == 200
        assert one.client.interests.strength(SHARD) == 1


@mock_clock_test
async def test_subscriptions_are_kept_alive_by_a_ping_per_minute() -> None:
    async with house() as one:
        server = Server(one.network, "s")
        await one.subscribe(A)
        await trio.sleep(605)
        assert server.kinds == [RequestType.SUBSCRIBE, *[RequestType.PING] * 10]
        assert not server.table.idle(trio.current_time())


@mock_clock_test
async def test_a_peer_that_has_forgotten_us_holds_nothing() -> None:
    async with house() as one:
        server = Server(one.network, "s")
        await one.subscribe(A)
        server.table.remove("us")
        await trio.sleep(62)
        assert one.client.interests.strength(SHARD) == 0
        assert one.counter("lost") == 1
        assert one.client.interests.wishes("x", SHARD) == [A]


@mock_clock_test
async def test_a_peer_that_does_not_answer_three_times_holds_nothing() -> None:
    async with house() as one:
        server = Server(one.network, "s")
        await one.subscribe(A)
        server.silent = True
        await trio.sleep(61)
        assert one.client.interests.strength(SHARD) == 1
        await trio.sleep(40)
        assert one.client.interests.strength(SHARD) == 0
        assert server.kinds == [RequestType.SUBSCRIBE, *[RequestType.PING] * 3]
        assert one.changed[SHARD] > 0


@mock_clock_test
async def test_a_peer_that_leaves_holds_nothing() -> None:
    async with house() as one:
        Server(one.network, "s")
        await one.subscribe(A)
        one.host.away.add("s")
        one.client.peer_disconnected("s", "left")
        assert one.client.interests.strength(SHARD) == 0
        assert not one.client.interests
        assert await one.unsubscribe(A) == {}


@mock_clock_test
async def test_a_wish_ends_with_its_lease() -> None:
    async with house() as one:
        server = Server(one.network, "s")
        await one.subscribe(A, consumer="x")
        await one.subscribe(A, B, consumer="y")
        one.leased.remove("y")
        one.client.leases_ended()
        await trio.sleep(2)
        assert server.table.criteria_of("us") == [(SHARD, A)]
        one.leased.clear()
        one.client.leases_ended()
        await trio.sleep(2)
        assert "us" not in server.table


@mock_clock_test
async def test_a_lease_that_ends_meanwhile() -> None:
    async with house() as one:
        server = Server(one.network, "s")
        one.leased.clear()
        with pytest.raises(LeaseEnded):
            await one.subscribe(A)
        await trio.sleep(2)
        assert "us" not in server.table


@mock_clock_test
async def test_a_request_given_up_half_way_leaves_nothing_behind() -> None:
    async with house() as one:
        server = Server(one.network, "s")

        async def slow(stream: Stream) -> None:
            body = await MessageReader(stream, 1 << 20).read()
            assert body is not None
            server.table.handle("us", decode_request(body), trio.current_time())
            await trio.sleep(3)

        fast = server.host.handlers[SUBSCRIBE_PROTOCOL]
        server.host.set_stream_handler(SUBSCRIBE_PROTOCOL, slow)
        with trio.move_on_after(1):
            await one.subscribe(A)
        assert "us" in server.table
        server.host.set_stream_handler(SUBSCRIBE_PROTOCOL, fast)
        await trio.sleep(5)
        assert "us" not in server.table
        assert not one.client.interests


@mock_clock_test
async def test_an_unresponsive_peer_is_eventually_dropped() -> None:
    async with house() as one:
        server = Server(one.network, "s")
        await one.subscribe(A)
        server.silent = True
        problems = await one.unsubscribe(A)
        assert problems == {"s": "no response within 5 s"}
        assert one.client.interests.wishes("x", SHARD) == []
        server.silent = False
        await trio.sleep(10)
        assert "us" not in server.table
        assert not one.client.interests


@mock_clock_test
async def test_ping_returns_the_status_of_each_peer() -> None:
    async with house() as one:
        servers = {name: Server(one.network, name) for name in "pqrs"}
        for name in servers:
            await one.subscribe(A, peer=name)
        servers["q"].table.remove("us")
        servers["r"].status = 503
        servers["s"].silent = True
        found = {ping.peer_id: ping.status for ping in await one.client.ping([*servers, "unknown"])}
        assert found == {"p": 200, "q": 404, "r": 503, "s": None, "unknown": None}
        assert set(one.client.interests.holders(SHARD)) == {"p", "r", "s"}
