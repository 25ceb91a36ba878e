"""Cryptography of discv5 v5.1 for the identity scheme "v4" (discv5-theory): key agreement, identity proof,
encryption."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kernel_proc.discovery.enr_identity import Identity, verify

KEY_BYTES: Final = 16
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16

_AGREEMENT: Final = b"discovery v5 key agreement"
_PROOF: Final = b"discovery v5 identity proof"


class SessionKeys(NamedTuple):
    """The two keys of a session, 16 bytes each."""

    initiator: bytes
    """Encrypts messages of the node that answered the WHOAREYOU."""
    recipient: bytes
    """Encrypts messages of the node that sent the WHOAREYOU."""


def derive_keys(
    secret: bytes, initiator_id: bytes, recipient_id: bytes, challenge_data: bytes
) -> SessionKeys:
    """Derive the session keys with HKDF-SHA256 from the shared secret (33-byte compressed point), salted
    with the challenge-data (discv5-theory, Key agreement)."""
    pseudo_random = hmac.digest(challenge_data, secret, "sha256")
    # The 32 bytes needed are a single block of HKDF-Expand.
    block = hmac.digest(pseudo_random, _AGREEMENT + initiator_id + recipient_id + b"\x01", "sha256")
    return SessionKeys(block[:KEY_BYTES], block[KEY_BYTES:])


def _proof_digest(challenge_data: bytes, ephemeral_key: bytes, recipient_id: bytes) -> bytes:
    return hashlib.sha256(_PROOF + challenge_data + ephemeral_key + recipient_id).digest()


def sign_proof(identity: Identity, challenge_data: bytes, ephemeral_key: bytes, recipient_id: bytes) -> bytes:
    """Return the id-signature (64 bytes, r ‖ s), which proves our identity for this challenge only."""
    return identity.sign(_proof_digest(challenge_data, ephemeral_key, recipient_id))


def verify_proof(
    public_key: bytes, signature: bytes, challenge_data: bytes, ephemeral_key: bytes, recipient_id: bytes
) -> bool:
    return verify(public_key, signature, _proof_digest(challenge_data, ephemeral_key, recipient_id))


def encrypt(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Encrypt with AES-128-GCM. The tag is appended."""
    return AESGCM(key).encrypt(nonce, plaintext, associated)


def decrypt(key: bytes, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes | None:
    """Decrypt. Return None if the key does not match or the data was modified."""
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, associated)
    except InvalidTag:
        return None
