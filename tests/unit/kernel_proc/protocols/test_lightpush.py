"""Lightpush: codec, service and client, against nwaku's frames and against peers that do not keep to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from random import Random
from typing import cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.config.ratelimits import RateLimit
from ipc_schema.hello import NetworkInfo
from ipc_schema.kernel.events import SOURCE_RELAY
from ipc_schema.message import WakuMessage, decode_message, encode_message, message_hash
from ipc_schema.protobuf import ProtobufError
from kernel_proc.ipc.events import EventPublisher
from kernel_proc.metrics import Registry
from kernel_proc.protocols import lightpush_codec as codec
from kernel_proc.protocols.framing import MessageReader, encode_frame
from kernel_proc.protocols.lightpush import LightpushService
from kernel_proc.protocols.lightpush_client import LightpushClient, Pushed
from kernel_proc.protocols.lightpush_codec import (
    LEGACY_PROTOCOL,
    PROTOCOL,
    LegacyResponse,
    PushRequest,
    PushResponse,
)
from kernel_proc.protocols.peer_select import PeerRanking, ServicePeerChoice
from kernel_proc.protocols.ratelimit import ServiceLimiter
from kernel_proc.protocols.requests import AllFailed, BadAnswer, NoAnswer, RequestRefused
from kernel_proc.relay.messages import PublishResult, RelayBadTopic, RelayMessageInvalid, RelayMessageTooLarge
from kernel_proc.relay.service import RelayService
from kernel_proc.sender import MessageSender
from kernel_proc.shards import Shards
from tests.support.memory_hosts import MemoryHost, MemoryStream, memory_network
from tests.support.mock_clock import mock_clock_test
from tests.unit.kernel_proc.protocols.vectors import exchanges, vectors

TOPIC = "/waku/2/rs/42/0"
NETWORK = NetworkInfo(cluster=42, shard_count=1, max_message_size=153_600, preset="", rln_required=False)
MESSAGE = WakuMessage(b"payload", "/t/1/vec/proto", timestamp=7)
NOW = 1_700_000_000_000_000_000


# --- codec ---


def test_every_frame_of_nwaku_reads_and_writes_back_the_same() -> None:
    seen = 0
    for vector in vectors("lightpush"):
        if vector.body is None or vector.body == b"\xff\xff":
            continue
        legacy = vector.protocol.startswith("lightpush2")
        seen += 1
        if vector.is_request and legacy:
            request = codec.decode_legacy_request(vector.body)
            assert request is not None
            assert codec.encode_legacy_request(request) == vector.body
        elif vector.is_request:
            assert codec.encode_request(codec.decode_request(vector.body)) == vector.body
        elif legacy:
            assert codec.encode_legacy_response(codec.decode_legacy_response(vector.body)) == vector.body
        else:
            assert codec.encode_response(codec.decode_response(vector.body)) == vector.body
    assert seen == 17


@given(st.builds(PushRequest, st.text(), st.binary(), st.none() | st.text()))
def test_requests_come_back(request: PushRequest) -> None:
    assert codec.decode_request(codec.encode_request(request)) == request
    legacy = request._replace(pubsub_topic=request.pubsub_topic or "")
    assert codec.decode_legacy_request(codec.encode_legacy_request(legacy)) == legacy


NUMBERS = st.integers(0, 2**32 - 1)


@given(st.builds(PushResponse, st.text(), NUMBERS, st.none() | st.text(), st.none() | NUMBERS))
def test_responses_come_back(response: PushResponse) -> None:
    assert codec.decode_response(codec.encode_response(response)) == response


@given(st.builds(LegacyResponse, st.text(), st.booleans(), st.none() | st.text()))
def test_legacy_responses_come_back(response: LegacyResponse) -> None:
    assert codec.decode_legacy_response(codec.encode_legacy_response(response)) == response


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(body: bytes) -> None:
    for decode in (
        codec.decode_request,
        codec.decode_response,
        codec.decode_legacy_request,
        codec.decode_legacy_response,
    ):
        try:
            decode(body)
        except ProtobufError:
            continue


# --- service ---


class Relay:
    """A relay with a settable number of peers that remembers what it has seen."""

    def __init__(self) -> None:
        self.peers = 1
        self.names = ["p", "q", "r"]
        self.on_topic = True
        self.seen: set[bytes] = set()
        self.sent: list[tuple[str, bytes]] = []
        self.error: Exception | None = None

    async def begin_publish(
        self, topic: str, data: bytes, *, message: WakuMessage | None = None, force: bool = False
    ) -> PublishResult:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        message_id = sha256(data).digest()
        duplicate = message_id in self.seen
        self.seen.add(message_id)
        peers = self.peers if topic == TOPIC and not (duplicate and not force) else 0
        if peers:
            self.sent.append((topic, data))
        return PublishResult(message_id, peers, duplicate)

    def topic_peers(self, topic: str) -> list[str]:
        return self.names[: self.peers] if topic == TOPIC else []

    mesh_peers = topic_peers

    def subscriptions(self) -> list[str]:
        return [TOPIC] if self.on_topic else []

    def subscribe(self, topic: str) -> bool:
        return True

    unsubscribe = subscribe


class House:
    """A service over a relay of the test; `delivered` is what the node's own readers get."""

    def __init__(
        self, host: MemoryHost, network: NetworkInfo = NETWORK, limit: RateLimit | None = None
    ) -> None:
        self.relay = Relay()
        registry = self.registry = Registry("")
        publisher = EventPublisher(
            instance=bytes(16), cluster=42, shard_count=1, replay_bytes=0, registry=registry
        )
        shards = Shards(
            publisher,
            cluster=42,
            shard_count=network.shard_count,
            lease_ttl=60,
            static=(0,),
            registry=registry,
        )
        relay = cast("RelayService", self.relay)
        shards.start(relay)
        self.delivered: list[tuple[str, WakuMessage, bytes, int]] = []
        shards.add_sink(lambda *message: self.delivered.append(message))
        self.service = LightpushService(
            host,
            MessageSender(relay, shards),
            relay,
            network,
            registry,
            ServiceLimiter(limit) if limit else None,
            clock_ns=lambda: NOW,
        )
        for service in self.service.services:
            service.mount()

    async def push(self, message: WakuMessage = MESSAGE, topic: str | None = TOPIC) -> PushResponse:
        request = PushRequest("id", encode_message(message), topic)
        response = codec.decode_response(await self.service.answer("peer", codec.encode_request(request)))
        assert response.request_id == "id"
        return response

    async def push_legacy(self, message: WakuMessage = MESSAGE, topic: str = TOPIC) -> LegacyResponse:
        request = PushRequest("id", encode_message(message), topic)
        body = await self.service.answer_legacy("peer", codec.encode_legacy_request(request))
        return codec.decode_legacy_response(body)


@asynccontextmanager
async def house(
    network: NetworkInfo = NETWORK, limit: RateLimit | None = None
) -> AsyncIterator[tuple[House, MemoryHost]]:
    """A service on the host `far`, and the host `near`."""
    async with memory_network() as hosts:
        yield House(hosts.host("far"), network, limit), hosts.host("near")


@mock_clock_test
async def test_nwakus_exchanges_give_the_same_answers() -> None:
    async with house() as (one, _):
        for name, (request, expected) in exchanges("lightpush3").items():
            if request is None:  # only described: a message above the limit
                message = WakuMessage(bytes(153_600), "/t/1/vec/proto", timestamp=7)
                request = codec.encode_request(PushRequest("lp-req-5", encode_message(message), TOPIC))
            answer = await one.service.answer("peer", request)
            if name == "lightpush3 dup":
                # nwaku answers 505 for a duplicate; we report the success.
                assert codec.decode_response(answer) == PushResponse("lp-req-2", 200, None, 1)
            else:
                assert answer == expected, name
        ((request, expected),) = exchanges("lightpush2").values()
        assert request is not None
        assert await one.service.answer_legacy("peer", request) == expected
        assert len(one.relay.sent) == 3


@mock_clock_test
async def test_a_pushed_message_reaches_the_network_and_our_own_readers_once() -> None:
    async with house() as (one, _):
        one.relay.peers = 3
        assert await one.push() == PushResponse("id", 200, None, 3)
        assert one.relay.sent == [(TOPIC, encode_message(MESSAGE))]
        digest = message_hash(TOPIC, MESSAGE)
        assert one.delivered == [(TOPIC, MESSAGE, digest, SOURCE_RELAY)]
        assert await one.push() == PushResponse("id", 200, None, 3)
        assert len(one.delivered) == len(one.relay.sent) == 1


@mock_clock_test
async def test_a_message_without_recipients_fails_and_is_sent_on_retry() -> None:
    async with house() as (one, _):
        one.relay.peers = 0
        for _ in range(2):
            response = await one.push()
            assert (response.status, response.relay_peers) == (505, None)
        assert (await one.push_legacy()).info == "not_published_to_any_peer"
        one.relay.peers = 2
        assert await one.push() == PushResponse("id", 200, None, 2)
        one.relay.peers = 0  # all peers are gone, and it was sent before: no peer is known to have it now
        assert (await one.push()).status == 505


@mock_clock_test
async def test_outcomes_are_counted_under_nwakus_names() -> None:
    async with house() as (one, _):
        one.relay.peers = 1
        await one.push()
        one.relay.peers = 0
        await one.push(MESSAGE._replace(payload=b"other"))
        await one.push_legacy(MESSAGE._replace(payload=b""))
        counted = {
            (name, labels["type"]): value
            for name, labels, value in one.registry.collect()
            if "type" in labels
        }
        assert counted["lightpush_v3_messages", "SUCCESS"] == 1
        assert counted["lightpush_v3_messages", "NO_PEERS_TO_RELAY"] == 1
        assert ("lightpush_v3_errors", "SUCCESS") not in counted
        assert counted["lightpush_v3_errors", "NO_PEERS_TO_RELAY"] == 1
        assert counted["lightpush_errors", "INVALID_MESSAGE"] == 1


@mock_clock_test
async def test_handing_a_message_back_to_the_one_it_came_from_is_not_publishing() -> None:
    async with house() as (one, _):
        one.relay.names, one.relay.on_topic = ["peer", "q"], False
        assert (await one.push()).status == 505
        assert one.relay.sent == [], "and it is not held for seen: a later try goes out"
        one.relay.on_topic = True
        assert (await one.push()).status == 200, "we are on the topic ourselves"
        one.relay.on_topic, one.relay.peers = False, 2
        assert (await one.push(MESSAGE._replace(payload=b"another"))).status == 200


@mock_clock_test
async def test_a_message_without_a_timestamp_is_stamped() -> None:
    async with house() as (one, _):
        assert (await one.push(MESSAGE._replace(timestamp=0))).status == 200
        assert decode_message(one.relay.sent[0][1]).timestamp == NOW


@pytest.mark.parametrize(
    ("message", "topic", "status", "text"),
    [
        (MESSAGE, "", 400, "topic must not be empty"),
        (MESSAGE, " \t", 400, "topic must not be empty"),
        (MESSAGE._replace(payload=b""), TOPIC, 420, "payload is empty"),
        (MESSAGE._replace(content_topic=""), TOPIC, 420, "content topic is empty"),
        (MESSAGE._replace(content_topic="bad"), None, 420, "Invalid content-topic:invalid format"),
        (MESSAGE._replace(content_topic="bad"), TOPIC, 200, ""),
        (MESSAGE._replace(content_topic="/1/t/1/x/proto"), None, 500, "Auto-sharding error: Generation"),
        (
            MESSAGE._replace(payload=bytes(153_600)),
            TOPIC,
            420,
            "Message size exceeded maximum of 153600 bytes",
        ),
        (MESSAGE, "any/other", 505, "No peers for topic, skipping publish"),
    ],
)
def test_refusals(message: WakuMessage, topic: str | None, status: int, text: str) -> None:
    @mock_clock_test
    async def check() -> None:
        async with house() as (one, _):
            response = await one.push(message, topic)
            assert response.status == status
            assert (response.description or "").startswith(text)
            if status != 505:
                assert len(one.relay.sent) == (status == 200)

    check()


@pytest.mark.parametrize(
    ("error", "status"),
    [(RelayMessageInvalid("by a validator"), 420), (RelayMessageTooLarge(9), 420), (RelayBadTopic("x"), 400)],
)
def test_what_the_relay_refuses(error: Exception, status: int) -> None:
    @mock_clock_test
    async def check() -> None:
        async with house() as (one, _):
            one.relay.error = error
            assert (await one.push()).status == status
            assert not (await one.push_legacy()).is_success
            assert one.delivered == []

    check()


@mock_clock_test
async def test_networks_that_need_more() -> None:
    async with house(replace(NETWORK, shard_count=0)) as (one, _):
        response = await one.push(MESSAGE, None)
        assert response.status == 420
        assert response.description == "Pubsub topic must be specified when static sharding is enabled"
    async with house(replace(NETWORK, rln_required=True)) as (one, _):
        assert (await one.push()).status == 420
        assert (await one.push(MESSAGE._replace(proof=b"x"))).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xff",
        b"",
        codec.encode_request(PushRequest("id", b"", TOPIC)),
        codec.encode_request(PushRequest("id", b"\xff", TOPIC)),
        b"\x0a\x02id",
        b"\x0a\x02\xff\xff" + codec.encode_request(PushRequest("id", encode_message(MESSAGE)))[4:],
    ],
)
def test_undecodable_requests(body: bytes) -> None:
    @mock_clock_test
    async def check() -> None:
        async with house() as (one, _):
            response = codec.decode_response(await one.service.answer("peer", body))
            assert (response.request_id, response.status) == ("N/A", 400)
            assert (response.description or "").startswith("decode_rpc_failure: ")
            legacy = codec.decode_legacy_response(await one.service.answer_legacy("peer", body))
            assert (legacy.request_id, legacy.is_success) == ("", False)

    check()


@mock_clock_test
async def test_a_legacy_request_without_its_inside() -> None:
    async with house() as (one, _):
        legacy = codec.decode_legacy_response(await one.service.answer_legacy("peer", b"\x0a\x02id"))
        assert legacy == LegacyResponse("", False, "empty_request_body_failure")


@given(st.binary(max_size=300))
def test_any_bytes_are_answered(body: bytes) -> None:
    @mock_clock_test
    async def check() -> None:
        async with house() as (one, _):
            assert codec.decode_response(await one.service.answer("peer", body)).status in (400, 420, 200)
            codec.decode_legacy_response(await one.service.answer_legacy("peer", body))

    check()


@mock_clock_test
async def test_both_versions_share_one_rate_limit() -> None:
    async with house(limit=RateLimit(2, 1.0)) as (_, near):
        bodies = []
        for protocol in (PROTOCOL, LEGACY_PROTOCOL, PROTOCOL, LEGACY_PROTOCOL):
            stream = await near.open_stream("far", [protocol])
            await stream.write(encode_frame(b""))
            bodies.append(await MessageReader(stream, 1000).read() or b"")
        assert codec.decode_response(bodies[0]).status == 400
        assert codec.decode_response(bodies[2]) == PushResponse(
            "N/A", 429, "Request rejected due to too many requests"
        )
        assert codec.decode_legacy_response(bodies[3]) == LegacyResponse("N/A", False, "TOO_MANY_REQUESTS")


# --- client ---

Answer = Callable[[PushRequest], PushResponse | bytes | None]


def answering(answer: Answer) -> Callable[[MemoryStream], object]:
    """A handler of v3: None closes without an answer, bytes are the body."""

    async def handle(stream: MemoryStream) -> None:
        request = codec.decode_request(await MessageReader(stream, 1 << 20).read() or b"")
        response = answer(request)
        if response is not None:
            body = response if isinstance(response, bytes) else codec.encode_response(response)
            await stream.write(encode_frame(body))

    return handle


def good(request: PushRequest) -> PushResponse:
    return PushResponse(request.request_id, 200, None, 4)


@asynccontextmanager
async def client(**answers: Answer) -> AsyncIterator[tuple[LightpushClient, MemoryHost]]:
    async with memory_network() as hosts:
        near = hosts.host("near")
        for peer_id, answer in answers.items():
            hosts.host(peer_id).handlers[PROTOCOL] = answering(answer)  # type: ignore[assignment]
        peers = ServicePeerChoice(near, PeerRanking(trio.current_time, Random(3)), lambda _p: None, {})
        yield LightpushClient(near, peers, Registry("")), near


async def publish(one: LightpushClient, peer: str | None = None) -> Pushed:
    return await one.publish(TOPIC, encode_message(MESSAGE), peer=peer, deadline=trio.current_time() + 10)


@mock_clock_test
async def test_published_by_another_node() -> None:
    seen: list[PushRequest] = []

    def answer(request: PushRequest) -> PushResponse:
        seen.append(request)
        return good(request)

    async with client(a=answer) as (one, _):
        assert await publish(one) == Pushed("a", 4)
    assert (seen[0].pubsub_topic, seen[0].message) == (TOPIC, encode_message(MESSAGE))
    assert len(seen[0].request_id) == 20


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda r: PushResponse(r.request_id, 505, "No peers"), "505 No peers"),
        (lambda r: PushResponse("N/A", 429, "too many"), "429 too many"),
        (lambda r: PushResponse("N/A", 400, "bad"), "400 bad"),
        (lambda r: PushResponse(r.request_id, 200), "505 published to no peer"),
        (lambda r: PushResponse(r.request_id, 200, None, 0), "505 published to no peer"),
        (lambda r: PushResponse("another", 200, None, 3), "another request id"),
        (lambda r: PushResponse("", 0), "0"),
        (lambda r: b"\xff\xff", "undecodable"),
        (lambda r: b"", "undecodable"),
        (lambda r: b"x" * 70_000, "maximum of 65536"),
        (lambda r: None, "without a response"),
    ],
)
def test_error_responses(answer: Answer, error: str) -> None:
    @mock_clock_test
    async def check() -> None:
        async with client(a=answer) as (one, _):
            with pytest.raises(AllFailed, match=error):
                await publish(one)

    check()


@mock_clock_test
async def test_the_next_peer_is_asked_and_the_good_one_remembered() -> None:
    async with client(a=lambda _r: None, b=lambda _r: b"\xff", c=good) as (one, near):
        assert (await publish(one)).peer_id == "c"
        near.opened.clear()
        assert (await publish(one)).peer_id == "c"
        assert [peer for peer, _ in near.opened] == ["c"]


@mock_clock_test
async def test_a_named_peer_is_the_only_one_asked() -> None:
    async with client(a=lambda _r: None, b=good) as (one, _):
        with pytest.raises(AllFailed) as failed:
            await publish(one, "a")
        assert [(attempt.peer, type(attempt.error)) for attempt in failed.value.attempts] == [("a", NoAnswer)]


@mock_clock_test
async def test_a_bad_request_is_bad_everywhere_an_invalid_message_is_one_peers_word() -> None:
    async with client(
        a=lambda r: PushResponse(r.request_id, 400, "x"), b=lambda r: PushResponse(r.request_id, 400, "x")
    ) as (one, _):
        with pytest.raises(AllFailed) as failed:
            await publish(one)
        assert [one.error.outcome for one in failed.value.attempts] == [{"status": 400}]
    async with client(a=lambda r: PushResponse(r.request_id, 420, "x"), b=good) as (one, _):
        assert (await publish(one)).peer_id == "b"


@mock_clock_test
async def test_the_legacy_version_over_its_rate_limit_is_asked_again() -> None:
    async with client() as (one, near), memory_network():
        times: list[float] = []

        async def handle(stream: MemoryStream) -> None:
            request = codec.decode_legacy_request(await MessageReader(stream, 1 << 20).read() or b"")
            assert request is not None
            times.append(trio.current_time())
            response = LegacyResponse("", False, "TOO_MANY_REQUESTS")
            if len(times) > 1:
                response = LegacyResponse(request.request_id, True, "OK")
            await stream.write(encode_frame(codec.encode_legacy_response(response)))

        far = near._network.host("far")
        far.handlers[LEGACY_PROTOCOL] = handle  # type: ignore[assignment]
        assert await publish(one) == Pushed("far", None)
        assert times[1] > times[0]


@pytest.mark.parametrize(
    ("info", "status"),
    [
        ("not_published_to_any_peer", 505),
        ("decode_rpc_failure: x", 400),
        ("Message size exceeded maximum of 1 bytes", 420),
        ("whatever", 500),
        (None, 500),
    ],
)
def test_the_legacy_version(info: str | None, status: int) -> None:
    @mock_clock_test
    async def check() -> None:
        async with client() as (one, near), memory_network():
            answers = [LegacyResponse("", False, info), None, LegacyResponse("other", True, "OK")]

            async def handle(stream: MemoryStream) -> None:
                request = codec.decode_legacy_request(await MessageReader(stream, 1 << 20).read() or b"")
                assert request is not None
                response = answers.pop(0) or LegacyResponse(request.request_id, True, "OK")
                await stream.write(encode_frame(codec.encode_legacy_response(response)))

            far = near._network.host("far")
            far.handlers[LEGACY_PROTOCOL] = handle  # type: ignore[assignment]
            with pytest.raises(AllFailed) as failed:
                await publish(one)
            error = failed.value.attempts[0].error
            assert isinstance(error, RequestRefused)
            assert error.status == status
            assert await publish(one) == Pushed("far", None)
            with pytest.raises(AllFailed) as failed:
                await publish(one)
            assert isinstance(failed.value.attempts[0].error, BadAnswer)

    check()


@mock_clock_test
async def test_without_service_peers() -> None:
    async with client() as (one, _):
        with pytest.raises(AllFailed, match="no connected peer serves lightpush"):
            await publish(one)
