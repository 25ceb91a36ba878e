from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.p2p import identify
from kernel_proc.p2p._errors import ConnectionEnded, ProtocolViolation
from kernel_proc.p2p._libp2p import ID, Identify, deserialize_public_key
from kernel_proc.p2p.peer_record import seal
from tests.support.aio import trio_test
from tests.unit.kernel_proc.p2p.support import KEYS
from tests.unit.kernel_proc.p2p.test_multistream import Replay

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "nwaku.json").read_text())
NWAKU = [bytes.fromhex(vector["hex"]) for vector in VECTORS if vector["protocol"] == "identify"]
PEER = KEYS[0].peer_id


def test_what_nwaku_says_of_itself() -> None:
    assert len(NWAKU) == 2
    edge, relay = (identify.decode(PEER, body) for body in NWAKU)
    assert edge.agent == relay.agent == 'logos-delivery-"nightly"'
    assert "/vac/waku/relay/2.0.0" in relay.protocols
    assert "/vac/waku/relay/2.0.0" not in edge.protocols
    assert "/vac/waku/metadata/1.0.0" in edge.protocols
    assert edge.listen_addresses == ("/ip4/127.0.0.1/tcp/61109",)
    assert edge.observed_address == "/ip4/127.0.0.1/tcp/61060"
    assert edge.record is None


def test_nwakus_signed_record_holds() -> None:
    """What nwaku sends with relay-peer-exchange on, by its own identify to its own peer id."""
    message = Identify()
    message.ParseFromString(NWAKU[1])
    peer_id = ID.from_pubkey(deserialize_public_key(message.public_key)).to_base58()
    record = identify.decode(peer_id, NWAKU[1]).record
    assert record is not None
    assert (record.peer_id, record.addresses) == (peer_id, ("/ip4/127.0.0.1/tcp/61109",))
    assert record.envelope == message.signedPeerRecord


def test_a_record_that_does_not_hold_is_counted_and_the_rest_is_read() -> None:
    own, others = seal(KEYS[0], ["/ip4/192.0.2.1/tcp/1"], 1), seal(KEYS[1], ["/ip4/192.0.2.1/tcp/1"], 1)
    counted: list[str] = []
    for bad in (others.envelope, own.envelope[:-1], b"junk", bytes(10_000)):
        body = Identify(agent_version="x", signedPeerRecord=bad).SerializeToString()
        identity = identify.decode(PEER, body, counted.append)
        assert (identity.agent, identity.record) == ("x", None)
    assert counted == ["peer_records_refused"] * 4
    body = Identify(signedPeerRecord=own.envelope).SerializeToString()
    assert identify.decode(PEER, body, counted.append).record == own
    assert len(counted) == 4


@trio_test()
async def test_our_own_message_reads_back() -> None:
    body = identify.encode(
        public_key=b"key",
        agent="agent/1",
        protocols=["/a", "/b"],
        listen_addresses=["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2/ws"],
        observed_address="/ip4/10.0.0.1/tcp/9",
        record=seal(KEYS[0], ["/ip4/127.0.0.1/tcp/1"], 3),
    )
    identity = await identify.read(Replay(body), PEER)
    assert identity.agent == "agent/1"
    assert identity.protocols == ("/a", "/b")
    assert identity.listen_addresses == ("/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2/ws")
    assert identity.observed_address == "/ip4/10.0.0.1/tcp/9"
    assert identity.record == seal(KEYS[0], ["/ip4/127.0.0.1/tcp/1"], 3)


def test_what_a_peer_claims_is_cut_to_size() -> None:
    body = Identify(
        agent_version="x" * 10_000,
        protocols=[f"/{n}" for n in range(5000)] + ["y" * 10_000],
        listen_addrs=[b"\xff\xff"] * 10_000,
        observed_addr=b"\xff",
    ).SerializeToString()
    identity = identify.decode(PEER, body)
    assert len(identity.agent) == identify.MAX_TEXT
    assert len(identity.protocols) == identify.MAX_PROTOCOLS
    assert identity.listen_addresses == ()
    assert identity.observed_address is None


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x80\x80\x08", b"\x02\xff\xff"])
@trio_test()
async def test_junk_is_a_violation(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        await identify.read(Replay(data), PEER)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_identity_or_a_violation(data: bytes) -> None:
    try:
        identity = identify.decode(PEER, data)
    except ProtocolViolation:
        return
    assert identity.peer_id == PEER
    assert all(isinstance(text, str) for text in (identity.agent, *identity.protocols))


def test_text_that_is_not_utf8_is_text_all_the_same() -> None:
    identity = identify.decode(PEER, b"\x32\x03a\xff\xff" + b"\x1a\x03/\xff\xff")
    assert (identity.agent, identity.protocols) == ("a\ufffd\ufffd", ("/\ufffd\ufffd",))


@trio_test()
async def test_a_short_message_is_an_end() -> None:
    with pytest.raises(ConnectionEnded):
        await identify.read(Replay(b"\x05ab"), PEER)
