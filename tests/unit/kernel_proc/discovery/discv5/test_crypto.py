"""Key agreement, identity proof and encryption against the vectors of the specification."""

from __future__ import annotations

import pytest

from kernel_proc.discovery.discv5.crypto import decrypt, derive_keys, encrypt, sign_proof, verify_proof
from kernel_proc.discovery.enr_identity import Identity
from tests.unit.kernel_proc.discovery.discv5.vectors import CHALLENGE_DATA_0, NODE_A, NODE_B

STATIC = Identity(bytes.fromhex("fb757dc581730490a1d7a00deea65e9b1936924caaea8f44d476014856b68736"))
POINT = bytes.fromhex("039961e4c2356d61bedb83052c115d311acb3a96f5777296dcf297351130266231")
SIGNATURE = bytes.fromhex(
    "94852a1e2318c4e5e9d422c98eaf19d1d90d876b29cd06ca7cb7546d0fff7b48"
    "4fe86c09a064fe72bdbef73ba8e9c34df0cd2b53e9d65528c2c7f336d5dfc6e6"
)


def test_ecdh() -> None:
    secret = STATIC.ecdh(POINT)
    assert secret.hex() == "033b11a2a1f214567e1537ce5e509ffd9b21373247f2a3ff6841f4976f53165e7e"


def test_key_derivation() -> None:
    destination = bytes.fromhex("0317931e6e0840220642f230037d285d122bc59063221ef3226b1f403ddc69ca91")
    keys = derive_keys(STATIC.ecdh(destination), NODE_A, NODE_B, CHALLENGE_DATA_0)
    assert keys.initiator.hex() == "dccc82d81bd610f4f76d3ebe97a40571"
    assert keys.recipient.hex() == "ac74bb8773749920b0d3a8881c173ec5"


def test_identity_proof_both_ways() -> None:
    assert sign_proof(STATIC, CHALLENGE_DATA_0, POINT, NODE_B) == SIGNATURE
    assert verify_proof(STATIC.public_key, SIGNATURE, CHALLENGE_DATA_0, POINT, NODE_B)
    assert not verify_proof(STATIC.public_key, SIGNATURE, CHALLENGE_DATA_0, POINT, NODE_A)
    assert not verify_proof(STATIC.public_key, SIGNATURE, CHALLENGE_DATA_0 + b"\0", POINT, NODE_B)
    assert not verify_proof(POINT, SIGNATURE, CHALLENGE_DATA_0, POINT, NODE_B)
    assert not verify_proof(STATIC.public_key, bytes(64), CHALLENGE_DATA_0, POINT, NODE_B)
    assert not verify_proof(b"\x02" * 33, SIGNATURE[:63], CHALLENGE_DATA_0, POINT, NODE_B)


def test_encryption_both_ways() -> None:
    key = bytes.fromhex("9f2d77db7004bf8a1a85107ac686990b")
    nonce = bytes.fromhex("27b5af763c446acd2749fe8e")
    plaintext = bytes.fromhex("01c20101")
    associated = bytes.fromhex("93a7400fa0d6a694ebc24d5cf570f65d04215b6ac00757875e3f3a5f42107903")
    ciphertext = encrypt(key, nonce, plaintext, associated)
    assert ciphertext.hex() == "a5d12a2d94b8ccb3ba55558229867dc13bfa3648"
    assert decrypt(key, nonce, ciphertext, associated) == plaintext
    assert decrypt(key, nonce, ciphertext, associated + b"\0") is None
    assert decrypt(bytes(16), nonce, ciphertext, associated) is None


@pytest.mark.parametrize("point", [b"", b"\x02" + bytes(32), b"\x05" * 33, bytes(33)])
def test_ecdh_rejects_invalid_points(point: bytes) -> None:
    with pytest.raises(ValueError):
        STATIC.ecdh(point)
