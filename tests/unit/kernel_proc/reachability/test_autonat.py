"""AutoNAT: messages, the verdict of several peers, and the limits of the service."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import cast

import trio
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.protobuf import ProtobufError
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import DialError, Host, PeerConnection, Stream, StreamHandler
from kernel_proc.protocols.framing import MessageReader, encode_frame
from kernel_proc.reachability.autonat import SETTLED_PERIOD, AutonatClient
from kernel_proc.reachability.autonat_codec import (
    PROTOCOL,
    DialRequest,
    DialResponse,
    DialStatus,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from kernel_proc.reachability.autonat_server import (
    DIAL_TIMEOUT,
    PER_PEER,
    PERIOD,
    TOTAL,
    AutonatServer,
    dial_back_addresses,
)
from kernel_proc.reachability.verdict import Reachability, ReachabilityVerdict
from tests.support.memory_hosts import MemoryHost, memory_network
from tests.support.mock_clock import mock_clock_test

ME = "16Uiu2HAmKnCWaghLudp7yEhmtf7CTUfJBywrZNVAJ3A3S8dXXGEf"
HOME = "/ip4/30.1.0.1/tcp/60000"


def test_messages_there_and_back() -> None:
    assert decode_request(encode_request(ME, [HOME, f"{HOME}/ws"])) == DialRequest(ME, (HOME, f"{HOME}/ws"))
    for response in (DialResponse(DialStatus.OK, address=HOME), DialResponse(DialStatus.DIAL_ERROR, "no")):
        assert decode_response(encode_response(response)) == response
    assert decode_response(bytes.fromhex("0801 1a03 08 b707")).status is DialStatus.INTERNAL_ERROR


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(body: bytes) -> None:
    for decode in (decode_request, decode_response):
        with suppress(ProtobufError):
            decode(body)


def test_all_of_the_last_answers_must_agree() -> None:
    verdict = ReachabilityVerdict()
    assert not verdict.take(DialStatus.DIAL_REFUSED)
    answers = [DialStatus.OK] * 3 + [DialStatus.DIAL_ERROR] * 3
    found = [(verdict.take(answer), verdict.current) for answer in answers]
    assert found == [
        (False, Reachability.UNKNOWN),
        (False, Reachability.UNKNOWN),
        (True, Reachability.PUBLIC),
        (True, Reachability.UNKNOWN),
        (False, Reachability.UNKNOWN),
        (True, Reachability.PRIVATE),
    ]
    verdict.forget()
    assert [verdict.confidence(one) for one in Reachability] == [0, 0, 0]


def test_only_the_address_from_which_a_peer_came_is_dialled() -> None:
    request = DialRequest(
        ME,
        (
            "/ip4/10.0.0.1/tcp/60000",
            f"/ip4/8.8.8.8/tcp/8000/ws/p2p/{ME}",
            "/ip6/2001:db8::1/tcp/60000",
            "/dns4/victim.example/tcp/80",
            f"/ip4/8.8.8.8/tcp/1/p2p/{ME}/p2p-circuit",
            "/ip4/8.8.8.8/udp/1/quic-v1",
            "/ip4/8.8.8.8/tcp/60000",
        ),
    )
    assert dial_back_addresses("/ip4/30.1.0.1/tcp/51234", request) == (
        "/ip4/30.1.0.1/tcp/60000",
        "/ip4/30.1.0.1/tcp/8000/ws",
    )


def test_peers_cannot_make_us_hold_many_sockets() -> None:
    ports = DialRequest(ME, tuple(f"/ip4/30.1.0.1/tcp/{port}" for port in range(1, 100)))
    assert TOTAL * len(dial_back_addresses(HOME, ports)) <= 128


class PublicHost:
    """A memory host whose peers have public addresses, or those in `ip`."""

    def __init__(self, host: MemoryHost) -> None:
        self._host = host
        self.ip = "30.1.0.1"
        self.through = ""

    def set_stream_handler(self, protocol: str, handler: StreamHandler, *, max_per_peer: int = 8) -> None:
        self._host.set_stream_handler(protocol, handler, max_per_peer=max_per_peer)

    def connections(self) -> list[PeerConnection]:
        return [
            replace(one, address=f"/ip4/{self.ip}/tcp/51234{self.through}", ip=self.ip)
            for one in self._host.connections()
        ]


@mock_clock_test
async def test_the_service_has_limits() -> None:
    probed: list[str] = []

    async def probe(address: str, deadline: float) -> None:
        probed.append(address)
        if "60000" not in address:
            raise DialError("refused")

    async with memory_network() as network:
        ours, peer = PublicHost(network.host("us")), network.host(ME)
        AutonatServer(cast("Host", ours), probe, Registry())

        async def ask(address: str, name: str = ME) -> DialStatus:
            stream = await peer.open_stream("us", (PROTOCOL,))
            await stream.write(encode_frame(encode_request(name, [address])))
            body = await MessageReader(stream, 4096).read()
            assert body is not None
            return decode_response(body).status

        other = "16Uiu2HAmQFyB45PqDA3p6sCnZwkwFu2mVTnSAeGGHW8oPvP2rPrq"
        assert await ask(HOME, other) is DialStatus.BAD_REQUEST
        assert await ask("/ip4/30.1.0.1/udp/1/quic-v1") is DialStatus.DIAL_REFUSED
        ours.ip = "10.0.0.1"
        assert await ask(HOME) is DialStatus.DIAL_REFUSED
        ours.ip, ours.through = "30.1.0.1", "/p2p/relay/p2p-circuit"
        assert await ask(HOME) is DialStatus.DIAL_REFUSED
        assert probed == []

        ours.through = ""
        assert await ask(HOME) is DialStatus.OK
        began = trio.current_time()
        assert await ask("/ip4/30.1.0.1/tcp/22") is DialStatus.DIAL_ERROR
        assert trio.current_time() - began == DIAL_TIMEOUT, "a refusal takes as long as silence"
        assert await ask(HOME) is DialStatus.OK
        assert await ask(HOME) is DialStatus.DIAL_REFUSED
        assert probed.count(f"{HOME}/p2p/{ME}") == PER_PEER - 1
        await trio.sleep(PERIOD)
        assert await ask(HOME) is DialStatus.OK


@mock_clock_test
async def test_peers_are_asked_until_they_agree_and_again_after_our_addresses_changed() -> None:
    answer = DialStatus.OK
    asked = 0

    async def serve(stream: Stream) -> None:
        nonlocal asked
        asked += 1
        body = await MessageReader(stream, 4096).read()
        assert body is not None
        assert decode_request(body) == DialRequest(ME, tuple(homes))
        await stream.write(encode_frame(encode_response(DialResponse(answer))))

    homes = [HOME]
    async with memory_network() as network:
        us = network.host(ME)
        for name in "abcd":
            network.host(name).set_stream_handler(PROTOCOL, serve)
        network.host("mute")
        states: list[Reachability] = []
        client = AutonatClient(us, lambda: homes, Registry(), Random(1))
        network.nursery.start_soon(client.run)
        await trio.sleep(1)
        states.append(client.reachability)
        assert asked == 3
        answer = DialStatus.DIAL_ERROR
        await trio.sleep(SETTLED_PERIOD)
        states.append(client.reachability)
        homes, answer = [f"{HOME}/ws"], DialStatus.DIAL_REFUSED
        await trio.sleep(SETTLED_PERIOD)
        states.append(client.reachability)
        assert states == [Reachability.PUBLIC, Reachability.PRIVATE, Reachability.UNKNOWN]
        homes, before = [], asked
        await trio.sleep(SETTLED_PERIOD)
        assert asked == before
