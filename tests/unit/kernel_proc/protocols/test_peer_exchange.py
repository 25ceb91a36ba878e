"""Peer exchange: nwaku's frames, its answers and limits, and both sides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.config.ratelimits import RateLimit
from ipc_schema.protobuf import ProtobufError
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Stream
from kernel_proc.protocols.framing import MessageReader, encode_frame
from kernel_proc.protocols.peer_exchange import (
    PROTOCOL,
    PeerExchangeClient,
    PeerExchangeService,
    PxResponse,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from kernel_proc.protocols.peer_select import PeerRanking, ServicePeerChoice
from kernel_proc.protocols.requests import AllFailed, call
from tests.support.memory_hosts import MemoryNetwork, memory_network
from tests.support.mock_clock import mock_clock_test
from tests.unit.kernel_proc.protocols.vectors import exchanges, vectors

FRAMES = [one for prefix in ("peer exchange", "px") for one in vectors(prefix) if one.body is not None]
RECORDS = [bytes([0xF8, number]) * 50 for number in range(100)]


# --- codec ---


def test_every_frame_of_nwaku_reads() -> None:
    assert len(FRAMES) == 23
    for frame in FRAMES:
        assert frame.body is not None
        if frame.is_request and frame.body != b"\xff\xff":
            assert decode_request(frame.body) == 5
        elif not frame.is_request:
            assert decode_response(frame.body).code in (200, 400, 429)


def test_our_answers_are_nwakus_byte_for_byte() -> None:
    answers = [frame.body for frame in FRAMES if frame.from_nwaku and not frame.is_request]
    assert len(answers) == 11
    for answer in answers:
        assert answer is not None
        assert encode_response(decode_response(answer)) == answer
    assert encode_request(5) == exchanges("peer exchange")["peer exchange"][0]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\x12\x00", 503),  # neither records nor status (34/WAKU2-PEER-EXCHANGE knows none)
        (b"\x12\x05\x0a\x03\x0a\x01x", 200),
        (b"\x12\x03\x50\xad\x03", 429),
    ],
)
def test_answers_without_nwakus_extensions(body: bytes, code: int) -> None:
    assert decode_response(body).code == code


@pytest.mark.parametrize("decode", [decode_request, decode_response])
@given(body=st.binary(max_size=200))
def test_any_bytes_read_or_are_refused(decode: Callable[[bytes], object], body: bytes) -> None:
    try:
        decode(body)
    except ProtobufError:
        return


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=10).map(tuple),
    st.none() | st.integers(0, 2**32 - 1),
    st.none() | st.text(),
)
def test_answers_survive(records: tuple[bytes, ...], status: int | None, text: str | None) -> None:
    response = PxResponse(records, status, text)
    assert decode_response(encode_response(response)) == response


# --- both sides ---


@asynccontextmanager
async def house(
    source: Callable[[], Sequence[bytes]] = lambda: RECORDS,
    rate_limit: RateLimit | None = None,
    own: Callable[[], bytes | None] = lambda: None,
) -> AsyncIterator[tuple[MemoryNetwork, PeerExchangeClient, list[tuple[str, Sequence[bytes]]]]]:
    async with memory_network() as network:
        us, server = network.host("us"), network.host("s")
        service = PeerExchangeService(
            server, source, Registry(), own=own, rate_limit=rate_limit, rng=Random(3)
        )
        service.requests.mount()
        received: list[tuple[str, Sequence[bytes]]] = []
        peers = ServicePeerChoice(us, PeerRanking(trio.current_time, Random(1)), lambda _peer: None, {})
        client = PeerExchangeClient(
            us, peers, Registry(), received=lambda peer, records: received.append((peer, records))
        )
        yield network, client, received


def soon() -> float:
    return trio.current_time() + 20


@mock_clock_test
async def test_a_random_choice_of_at_most_sixty() -> None:
    async with house() as (network, client, received):
        some = await client.request(5, deadline=soon())
        assert some.peer_id == "s"
        assert len(set(some.records)) == 5
        assert set(some.records) <= set(RECORDS)
        assert received == [("s", some.records)]
        assert set((await client.request(5, deadline=soon())).records) != set(some.records)
        assert len((await client.request(60, deadline=soon())).records) == 60
        body = await call(
            network.hosts["us"],
            "s",
            (PROTOCOL,),
            encode_request(2**63),
            decode=bytes,
            max_response=1 << 16,
            deadline=5,
        )
        assert len(decode_response(body).records) == 60


@mock_clock_test
async def test_without_peers_the_response_is_empty() -> None:
    async with house(tuple) as (_network, client, _received):
        assert (await client.request(5, deadline=soon())).records == ()


@mock_clock_test
async def test_an_answer_that_is_not_full_has_our_own_record_too() -> None:
    async with house(lambda: RECORDS[:3], own=lambda: b"own") as (_network, client, _received):
        assert set((await client.request(60, deadline=soon())).records) == {*RECORDS[:3], b"own"}
        assert b"own" not in (await client.request(3, deadline=soon())).records
        assert b"own" in (await client.request(4, deadline=soon())).records
    async with house(tuple, own=lambda: b"own") as (_network, client, _received):
        assert (await client.request(1, deadline=soon())).records == (b"own",)


@mock_clock_test
async def test_records_that_are_none_are_not_given_away() -> None:
    async with house(lambda: [b"", bytes(301), b"good"]) as (_network, client, _received):
        assert (await client.request(60, deadline=soon())).records == (b"good",)


@mock_clock_test
async def test_nwakus_words_for_what_cannot_be_read() -> None:
    async with house() as (network, _client, _received):
        asked, answered = exchanges("peer exchange")["peer exchange undecodable"]
        assert asked is not None
        body = await call(
            network.hosts["us"],
            "s",
            (PROTOCOL,),
            asked,
            decode=bytes,
            max_response=1 << 16,
            deadline=5,
        )
        assert body == answered


@mock_clock_test
async def test_over_the_rate_limit() -> None:
    async with house(rate_limit=RateLimit(5, 1.0)) as (_network, client, _received):
        for _ in range(5):
            await client.request(1, deadline=soon())
        with pytest.raises(AllFailed) as failed:
            await client.request(1, deadline=trio.current_time() + 0.1)
        assert [one.error.outcome for one in failed.value.attempts] == [{"status": 429}]
        await client.request(1, deadline=soon())


@mock_clock_test
async def test_only_requested_and_plausible_records_are_used() -> None:
    async with house() as (network, client, _received):

        async def generous(stream: Stream) -> None:
            assert await MessageReader(stream, 1 << 10).read() is not None
            records = (b"a", b"a", bytes(400), b"b", b"c", b"d")
            # js-waku and go-waku write no query into an answer.
            await stream.write(encode_frame(encode_response(PxResponse(records))[4:]))

        network.hosts["s"].set_stream_handler(PROTOCOL, generous)
        assert (await client.request(3, deadline=soon())).records == (b"a", b"b", b"c")


@mock_clock_test
async def test_a_service_that_is_not_one() -> None:
    async with house() as (network, client, _received):
        for answer in (b"\xff\xff", b"", encode_response(PxResponse(status=503))):

            async def bad(stream: Stream, answer: bytes = answer) -> None:
                await stream.write(encode_frame(answer))

            network.hosts["s"].set_stream_handler(PROTOCOL, bad)
            with pytest.raises(AllFailed):
                await client.request(3, peer="s", deadline=soon())
        with pytest.raises(AllFailed, match="not connected"):
            await client.request(3, peer="unknown", deadline=soon())
        network.hosts["s"].remove_stream_handler(PROTOCOL)
        with pytest.raises(AllFailed, match="no connected peer serves px"):
            await client.request(3, deadline=soon())
