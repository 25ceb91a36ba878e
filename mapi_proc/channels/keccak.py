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
