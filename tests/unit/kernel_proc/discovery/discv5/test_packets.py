"""Packets: the vectors of the specification bit by bit, and any bytes that may come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.discovery.discv5 import messages, packets
from kernel_proc.discovery.discv5.crypto import decrypt, derive_keys, encrypt, sign_proof, verify_proof
from kernel_proc.discovery.discv5.packets import Handshake, Ordinary, PacketError, Whoareyou
from kernel_proc.discovery.enr import Enr
from kernel_proc.discovery.enr_identity import Identity
from tests.unit.kernel_proc.discovery.discv5 import vectors as v

IV = bytes(16)
A, B = Identity(v.NODE_A_KEY), Identity(v.NODE_B_KEY)
PING_2 = messages.encode(messages.Ping(v.REQUEST_ID, 2))
PING_1 = messages.encode(messages.Ping(v.REQUEST_ID, 1))


def decoded(data: bytes) -> Ordinary | Whoareyou | Handshake:
    return packets.decode(data, v.NODE_B, v.PROTOCOL_ID)


def test_the_keys_are_of_the_nodes() -> None:
    assert (A.node_id, B.node_id) == (v.NODE_A, v.NODE_B)


def test_ordinary_packet() -> None:
    header = packets.ordinary_header(v.NODE_B, v.NODE_A, IV, v.MESSAGE_NONCE, v.PROTOCOL_ID)
    sealed = encrypt(bytes(16), v.MESSAGE_NONCE, PING_2, header.associated)
    assert header.masked + sealed == v.PING_PACKET
    packet = decoded(v.PING_PACKET)
    assert packet == Ordinary(v.MESSAGE_NONCE, v.NODE_A, header.associated, sealed)
    assert decrypt(bytes(16), packet.nonce, sealed, header.associated) == PING_2


def test_whoareyou_packet() -> None:
    header = packets.whoareyou_header(v.NODE_B, IV, v.CHALLENGE_NONCE, v.ID_NONCE, 0, v.PROTOCOL_ID)
    assert header.masked == v.WHOAREYOU_PACKET
    assert header.associated == v.CHALLENGE_DATA_0
    assert decoded(v.WHOAREYOU_PACKET) == Whoareyou(v.CHALLENGE_NONCE, v.ID_NONCE, 0, v.CHALLENGE_DATA_0)


@pytest.mark.parametrize(
    ("data", "challenge", "key", "with_record"),
    [
        (v.HANDSHAKE_PACKET, v.CHALLENGE_DATA_1, v.HANDSHAKE_KEY, False),
        (v.HANDSHAKE_WITH_RECORD_PACKET, v.CHALLENGE_DATA_0, v.HANDSHAKE_WITH_RECORD_KEY, True),
    ],
)
def test_handshake_packets(data: bytes, challenge: bytes, key: bytes, with_record: bool) -> None:
    packet = decoded(data)
    assert isinstance(packet, Handshake)
    assert (packet.nonce, packet.source) == (v.MESSAGE_NONCE, v.NODE_A)
    assert packet.ephemeral_key == v.EPHEMERAL_PUBKEY
    record = Enr.from_bytes(packet.record) if with_record else None
    assert bool(packet.record) == with_record
    assert record is None or record.node_id == v.NODE_A
    # As the recipient.
    assert verify_proof(A.public_key, packet.signature, challenge, packet.ephemeral_key, v.NODE_B)
    keys = derive_keys(B.ecdh(packet.ephemeral_key), v.NODE_A, v.NODE_B, challenge)
    assert keys.initiator == key
    assert decrypt(key, packet.nonce, packet.ciphertext, packet.associated) == PING_1
    # As the initiator, bit by bit.
    ephemeral = Identity(v.EPHEMERAL_KEY)
    assert ephemeral.public_key == v.EPHEMERAL_PUBKEY
    assert derive_keys(ephemeral.ecdh(B.public_key), v.NODE_A, v.NODE_B, challenge) == keys
    header = packets.handshake_header(
        v.NODE_B,
        v.NODE_A,
        IV,
        v.MESSAGE_NONCE,
        sign_proof(A, challenge, ephemeral.public_key, v.NODE_B),
        ephemeral.public_key,
        packet.record,
        v.PROTOCOL_ID,
    )
    assert header.masked + encrypt(key, v.MESSAGE_NONCE, PING_1, header.associated) == data


def test_the_protocol_id_parts_the_networks() -> None:
    with pytest.raises(PacketError, match="protocol"):
        packets.decode(v.PING_PACKET, v.NODE_B)
    waku = packets.ordinary_header(v.NODE_B, v.NODE_A, IV, v.MESSAGE_NONCE).masked + bytes(20)
    assert isinstance(packets.decode(waku, v.NODE_B), Ordinary)
    with pytest.raises(PacketError, match="protocol"):
        decoded(waku)


def test_a_packet_for_another_node_is_refused() -> None:
    with pytest.raises(PacketError, match="protocol"):
        packets.decode(v.PING_PACKET, v.NODE_A, v.PROTOCOL_ID)


@pytest.mark.parametrize("size", [0, 1, 62, 1281, 65507])
def test_sizes_outside_the_limits_are_refused(size: int) -> None:
    with pytest.raises(PacketError, match="size"):
        decoded((v.PING_PACKET * 1000)[:size])


def masked(flag: int, authdata: bytes, message: bytes = b"", size: int | None = None) -> bytes:
    """A packet with any flag and authdata."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    length = (len(authdata) if size is None else size).to_bytes(2, "big")
    header = b"discv5\0\1" + bytes((flag,)) + v.MESSAGE_NONCE + length + authdata
    mask = Cipher(algorithms.AES(v.NODE_B[:16]), modes.CTR(IV)).encryptor()
    return IV + mask.update(header) + message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (masked(0, bytes(31), bytes(40)), "authdata"),
        (masked(0, bytes(33), bytes(40)), "authdata"),
        (masked(0, bytes(32), bytes(15)), "truncated"),
        (masked(0, bytes(32), bytes(40), size=5000), "truncated"),
        (masked(1, bytes(24), bytes(1)), "WHOAREYOU"),
        (masked(1, bytes(25)), "WHOAREYOU"),
        (masked(2, bytes(130), bytes(16)), "authdata"),
        (masked(2, bytes(131 + 301), bytes(16)), "authdata"),
        (masked(2, bytes(131), bytes(16)), "scheme"),
        (masked(2, bytes(32) + b"\x40\x20" + bytes(97), bytes(16)), "scheme"),
        (masked(3, bytes(32), bytes(40)), "flag"),
        (masked(255, bytes(32), bytes(40)), "flag"),
    ],
)
def test_malformed_headers_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(PacketError, match=reason):
        decoded(data)


@given(st.binary(max_size=1400))
def test_any_bytes_are_refused_without_harm(data: bytes) -> None:
    with pytest.raises(PacketError):
        decoded(data)


@given(st.integers(0, 255), st.binary(max_size=500), st.binary(max_size=100), st.integers(0, 0xFFFF))
def test_any_content_behind_the_mask_is_read_or_refused(
    flag: int, authdata: bytes, message: bytes, size: int
) -> None:
    for data in (masked(flag, authdata, message), masked(flag % 3, authdata, message, size)):
        try:
            decoded(data)
        except PacketError:
            continue
