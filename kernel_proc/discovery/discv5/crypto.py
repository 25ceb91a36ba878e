"""The cryptography of discv5 v5.1 for the identity scheme "v4": key agreement, identity proof, encryption."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kernel_proc.discovery.enr_identity import Identity, verify

__all__ = [
    "KEY_BYTES",
    "NONCE_BYTES",
    "TAG_BYTES",
    "SessionKeys",
    "decrypt",
    "derive_keys",
    "encrypt",
    "sign_proof",
    "verify_proof",
]

KEY_BYTES: Final = 16
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16

_AGREEMENT: Final = b"discovery v5 key agreement"
_PROOF: Final = b"discovery v5 identity proof"


class SessionKeys(NamedTuple):
    """Keys of a session, 16 bytes each."""

    initiator: bytes
    """Encrypts what the node that answered WHOAREYOU sends."""
    recipient: bytes
    """Encrypts what the node that sent WHOAREYOU sends."""


def derive_keys(
    secret: bytes, initiator_id: bytes, recipient_id: bytes, challenge_data: bytes
) -> SessionKeys:
    """HKDF-SHA256 of the shared secret (33 bytes), salted with the challenge."""
    pseudo_random = hmac.digest(challenge_data, secret, "sha256")
    # 32 bytes are one block of the expansion.
    block = hmac.digest(pseudo_random, _AGREEMENT + initiator_id + recipient_id + b"\x01", "sha256")
    return SessionKeys(block[:KEY_BYTES], block[KEY_BYTES:])


def _proof_digest(challenge_data: bytes, ephemeral_key: bytes, recipient_id: bytes) -> bytes:
    return hashlib.sha256(_PROOF + challenge_data + ephemeral_key + recipient_id).digest()


def sign_proof(identity: Identity, challenge_data: bytes, ephemeral_key: bytes, recipient_id: bytes) -> bytes:
    """The id-signature, 64 bytes: we are who our record says, in answer to this challenge only."""
    return identity.sign(_proof_digest(challenge_data, ephemeral_key, recipient_id))


def verify_proof(
    public_key: bytes, signature: bytes, challenge_data: bytes, ephemeral_key: bytes, recipient_id: bytes
) -> bool:
    """Whether an id-signature is right."""
    return verify(public_key, signature, _proof_digest(challenge_data, ephemeral_key, recipient_id))


def encrypt(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """AES-128-GCM, the tag behind."""
    return AESGCM(key).encrypt(nonce, plaintext, associated)


def decrypt(key: bytes, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes | None:
    """The plaintext; None if the key is another or the text was altered."""
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, associated)
    except InvalidTag:
        return None
