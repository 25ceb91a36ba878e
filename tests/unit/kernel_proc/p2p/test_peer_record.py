"""Signed peer records (libp2p RFC 0002 and 0003): ours, those of js-libp2p and nwaku, and bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.p2p import addresses
from kernel_proc.p2p._libp2p import ID, Envelope, RecordMessage
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.peer_record import (
    MAX_ADDRESSES,
    MAX_ENVELOPE,
    PAYLOAD_TYPE,
    PeerRecordError,
    _signed_bytes,
    open_envelope,
    seal,
)
from tests.unit.kernel_proc.p2p.support import KEYS

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "peer_records.json").read_text())
LISTEN = ("/ip4/192.0.2.1/tcp/60000", "/dns4/node.example/tcp/443/wss", "/ip6/2001:db8::1/tcp/8000/ws")


def envelope_of(
    key: NodeKey,
    *,
    signer: NodeKey | None = None,
    about: bytes | None = None,
    payload_type: bytes = PAYLOAD_TYPE,
    raw_addresses: tuple[bytes, ...] = (),
    payload: bytes | None = None,
) -> Envelope:
    """An envelope with the key of `key`, signed by `signer`, about the peer `about`."""
    if payload is None:
        record = RecordMessage(peer_id=about or ID.from_base58(key.peer_id).to_bytes(), seq=1)
        for one in raw_addresses:
            record.addresses.add(multiaddr=one)
        payload = record.SerializeToString()
    pair = (signer or key).libp2p_key_pair()
    signature = pair.private_key.sign(_signed_bytes(payload))
    envelope = Envelope(payload_type=payload_type, payload=payload, signature=signature)
    envelope.public_key.ParseFromString(key.libp2p_key_pair().public_key.serialize())
    return envelope


def refusal(raw: bytes) -> str:
    with pytest.raises(PeerRecordError) as caught:
        open_envelope(raw)
    return caught.value.reason


def test_what_we_seal_opens_again() -> None:
    record = seal(KEYS[0], LISTEN, 2**64 - 1)
    assert open_envelope(record.envelope) == record
    assert (record.peer_id, record.seq, record.addresses) == (KEYS[0].peer_id, 2**64 - 1, LISTEN)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["key"])
def test_records_of_js_libp2p_open(vector: dict[str, Any]) -> None:
    record = open_envelope(bytes.fromhex(vector["envelope"]))
    assert record.peer_id == vector["peer_id"]
    assert record.seq == vector["seq"]
    assert record.addresses == tuple(vector["addresses"])


def test_we_write_what_js_libp2p_writes() -> None:
    (vector,) = (one for one in VECTORS if one["key"] == "secp256k1")
    key = NodeKey(bytes(range(1, 33)))
    ours, theirs = Envelope(), Envelope()
    ours.ParseFromString(seal(key, vector["addresses"], vector["seq"]).envelope)
    theirs.ParseFromString(bytes.fromhex(vector["envelope"]))
    for envelope in (ours, theirs):
        envelope.ClearField("signature")
    assert ours.SerializeToString() == theirs.SerializeToString()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["key"])
def test_one_flipped_bit_in_payload_or_signature_is_a_forgery(vector: dict[str, Any]) -> None:
    for field in ("payload", "signature"):
        envelope = Envelope()
        envelope.ParseFromString(bytes.fromhex(vector["envelope"]))
        value = bytearray(getattr(envelope, field))
        value[-1] ^= 1
        setattr(envelope, field, bytes(value))
        assert refusal(envelope.SerializeToString()) == "forged"


def test_a_peer_cannot_sign_for_another() -> None:
    mine, other = KEYS[0], KEYS[1]
    assert refusal(envelope_of(mine, signer=other).SerializeToString()) == "forged"
    about_other = envelope_of(mine, about=ID.from_base58(other.peer_id).to_bytes())
    assert refusal(about_other.SerializeToString()) == "forged"
    assert refusal(envelope_of(mine, about=b"junk").SerializeToString()) == "forged"


def test_an_envelope_of_something_else_is_refused() -> None:
    assert refusal(envelope_of(KEYS[0], payload_type=b"\x03\x02").SerializeToString()) == "malformed"
    assert refusal(envelope_of(KEYS[0], payload=b"\xff").SerializeToString()) == "malformed"
    keyless = envelope_of(KEYS[0])
    keyless.ClearField("public_key")
    assert refusal(keyless.SerializeToString()) == "malformed"
    assert refusal(b"") == "malformed"
    assert refusal(b"\x0a\xff") == "malformed"


@pytest.mark.parametrize(("kind", "data"), [(0, b""), (1, bytes(31)), (2, bytes(33)), (3, bytes(65))])
def test_a_key_that_is_none_is_refused(kind: int, data: bytes) -> None:
    envelope = envelope_of(KEYS[0])
    envelope.public_key.ParseFromString(b"\x08" + bytes([kind]) + b"\x12" + bytes([len(data)]) + data)
    assert refusal(envelope.SerializeToString()) == "malformed"


def test_an_rsa_key_made_to_be_slow_is_refused() -> None:
    from Crypto.PublicKey import RSA

    modulus = (1 << 2047) | 1
    der = RSA.construct((modulus, (1 << 2000) | 1), consistency_check=False).export_key("DER")
    envelope = envelope_of(KEYS[0])
    size = len(der)
    envelope.public_key.ParseFromString(b"\x08\x00\x12" + bytes([size & 0x7F | 0x80, size >> 7]) + der)
    assert refusal(envelope.SerializeToString()) == "malformed"


def test_sizes_are_bounded() -> None:
    address = addresses.to_bytes("/dns4/" + "x" * 60 + ".example/tcp/1")
    most = envelope_of(KEYS[0], raw_addresses=(address,) * 1000).SerializeToString()
    assert len(most) > MAX_ENVELOPE
    assert refusal(most) == "oversized"
    many = envelope_of(
        KEYS[0], raw_addresses=tuple(addresses.to_bytes(f"/ip4/192.0.2.1/tcp/{n}") for n in range(1, 101))
    )
    assert len(open_envelope(many.SerializeToString()).addresses) == MAX_ADDRESSES
    own = seal(KEYS[0], [f"/ip4/192.0.2.1/tcp/{n}" for n in range(1, 101)], 1)
    assert own.addresses == tuple(f"/ip4/192.0.2.1/tcp/{n}" for n in range(1, MAX_ADDRESSES + 1))
    assert len(own.envelope) < MAX_ENVELOPE
    long = seal(KEYS[0], ["/dns4/" + f"{n:060}." * 4 + "example/tcp/1" for n in range(MAX_ADDRESSES)], 1)
    assert MAX_ENVELOPE - 600 < len(long.envelope) <= MAX_ENVELOPE
    assert open_envelope(long.envelope) == long


def test_unparsable_addresses_are_left_out() -> None:
    good = addresses.to_bytes(LISTEN[0])
    envelope = envelope_of(KEYS[0], raw_addresses=(b"\xff\xff\xff", good, b"", good))
    assert open_envelope(envelope.SerializeToString()).addresses == (LISTEN[0],)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_as_they_should(data: bytes) -> None:
    with pytest.raises(PeerRecordError):
        open_envelope(data)


RECORD = seal(KEYS[0], LISTEN, 5).envelope


@given(st.integers(0, len(RECORD) - 1), st.integers(1, 255), st.integers(0, 40))
def test_a_mutilated_envelope_is_refused_or_says_the_same(place: int, flip: int, cut: int) -> None:
    data = bytearray(RECORD)
    data[place] ^= flip
    try:
        record = open_envelope(bytes(data[: len(data) - cut]))
    except PeerRecordError:
        return
    assert (record.peer_id, record.seq, record.addresses) == (KEYS[0].peer_id, 5, LISTEN)


@given(st.binary(max_size=200))
def test_any_signed_payload_is_a_record_of_its_signer_or_refused(payload: bytes) -> None:
    try:
        record = open_envelope(envelope_of(KEYS[0], payload=payload).SerializeToString())
    except PeerRecordError:
        return
    assert record.peer_id == KEYS[0].peer_id
