"""Keccak-256 as Ethereum uses it (not SHA3-256: the padding differs)."""

from __future__ import annotations

from Crypto.Hash import keccak


def keccak256(*parts: bytes) -> bytes:
    """Return the digest of the concatenated parts."""
    hasher = keccak.new(digest_bits=256)
    for part in parts:
        hasher.update(part)
    digest: bytes = hasher.digest()
    return digest


def running_keccak(data: bytes) -> keccak.Keccak_Hash:
    """Return a hasher of data that is digested more than once, and grows in between."""
    hasher = keccak.new(digest_bits=256, update_after_digest=True)
    hasher.update(data)
    return hasher
