"""Circuit relay: messages, addresses, and when to renew."""

from __future__ import annotations

import time
from contextlib import suppress
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.config.addresses import split_circuit
from ipc_schema.protobuf import ProtobufError
from kernel_proc.metrics import Registry
from kernel_proc.p2p import addresses, peer_ids
from kernel_proc.p2p.api import Stream
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.varint import encode as varint
from kernel_proc.protocols.framing import MessageReader, encode_frame
from kernel_proc.reachability import circuit
from kernel_proc.reachability.circuit import SLACK, CircuitClient, renewal_is_due
from kernel_proc.reachability.circuit_codec import (
    HOP,
    MAX_MESSAGE,
    OK,
    HopReply,
    decode_hop_reply,
    decode_stop_connect,
    encode_hop_connect,
    encode_reserve,
    encode_stop_connect,
    encode_stop_status,
    status_name,
)
from tests.support.aio import trio_test
from tests.support.memory_hosts import MemoryHost, memory_network

RELAY = "16Uiu2HAmKnCWaghLudp7yEhmtf7CTUfJBywrZNVAJ3A3S8dXXGEf"
PEER = "16Uiu2HAmQFyB45PqDA3p6sCnZwkwFu2mVTnSAeGGHW8oPvP2rPrq"
PLACE = f"/ip4/20.4.0.1/tcp/4001/p2p/{RELAY}"


def test_messages() -> None:
    raw = peer_ids.to_bytes(PEER).hex()
    assert encode_reserve().hex() == "0800"
    assert encode_hop_connect(PEER).hex() == f"08011229 0a27{raw}".replace(" ", "")
    assert encode_stop_status(OK).hex() == "08012064"
    assert decode_stop_connect(encode_stop_connect(PEER)) == PEER
    place = addresses.to_bytes("/ip4/20.4.0.1/tcp/4001")
    reservation = bytes.fromhex("08808080e006") + bytes((0x12, len(place))) + place
    reply = bytes.fromhex("0802") + bytes((0x1A, len(reservation))) + reservation + bytes.fromhex("2864")
    assert decode_hop_reply(reply) == HopReply(OK, 0x6C000000)
    assert decode_hop_reply(bytes.fromhex("080228c901")) == HopReply(201)
    assert status_name(201) == "resource limit exceeded"
    assert status_name(999) == "status 999"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(body: bytes) -> None:
    for decode in (decode_hop_reply, decode_stop_connect):
        with suppress(ProtobufError):
            decode(body)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (f"{PLACE}/p2p-circuit/p2p/{PEER}", (PLACE, PEER)),
        (f"{PLACE}/p2p-circuit", None),
        (f"{PLACE}/p2p-circuit/p2p/", None),
        (f"{PLACE}/p2p-circuit/p2p/0OIl", None),
        (PLACE, None),
        (f"/ip4/20.4.0.1/tcp/4001/p2p-circuit/p2p/{PEER}", None),
        (f"{PLACE}/p2p-circuit/p2p/{PEER}/p2p-circuit", None),
    ],
)
def test_addresses_of_circuits(address: str, expected: tuple[str, str] | None) -> None:
    assert split_circuit(address) == expected


def test_a_reservation_is_renewed_before_it_ends() -> None:
    assert not renewal_is_due(1000.0, 1000.0 - SLACK)
    assert renewal_is_due(1000.0, 1001.0 - SLACK)


class Place(MemoryHost):
    """A host as the circuit client needs it."""

    circuit_dialler: object = None


async def reserve(stream: Stream) -> None:
    """Answer RESERVE as a relay: for an hour from now on."""
    await MessageReader(stream, MAX_MESSAGE).read()
    ends = varint(int(time.time()) + 3600)
    reservation = b"\x08" + ends
    await stream.write(encode_frame(b"\x08\x02\x1a" + varint(len(reservation)) + reservation + b"\x28\x64"))


@trio_test()
async def test_a_step_of_the_wall_clock_ends_no_reservation(monkeypatch: pytest.MonkeyPatch) -> None:
    changed: list[tuple[str, ...]] = []
    async with memory_network() as network:
        host = network.hosts["us"] = Place(network, "us")
        network.host(RELAY).set_stream_handler(HOP, reserve)
        client = CircuitClient(cast("Libp2pHost", host), lambda: True, changed.append, Registry(""))
        await client._look()
        assert client.relays == (RELAY,)
        monkeypatch.setattr(circuit, "time", SimpleNamespace(time=lambda: time.time() + 86_400))
        await client._look()
        assert client.relays == (RELAY,)
        assert len(changed) == len(host.opened) == 1
