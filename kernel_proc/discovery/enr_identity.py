"""The "v4" identity scheme of node records (EIP-778): keys, node ids, signatures; and the libp2p peer id.

A node has one secp256k1 key. Its node id (32 bytes, keccak-256 of the public key) is its position in
discovery, its peer id (the key itself, in base58) its name among libp2p peers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import coincurve
from coincurve import ecdsa
from Crypto.Hash import keccak

SECRET_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_PEER_ID_HEAD: Final = bytes.fromhex("002508021221")
"""Multihash `identity` of 37 bytes, then the libp2p public key message: type secp256k1, 33 key bytes."""
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def keccak256(data: bytes) -> bytes:
    """Return Keccak-256, which differs from SHA3-256 in its padding."""
    return keccak.new(digest_bits=256, data=data).digest()


@lru_cache(maxsize=1024)
def node_id_of(public_key: bytes) -> bytes:
    """Return the node id (32 bytes) of a compressed public key. Raise ValueError if it is invalid.

    Cached, because it needs point decompression and the same nodes recur.
    """
    return keccak256(coincurve.PublicKey(public_key).format(compressed=False)[1:])


def peer_id_of(public_key: bytes) -> str:
    """Return the libp2p peer id (`16Uiu2…`) of a compressed public key (33 bytes)."""
    data = _PEER_ID_HEAD + public_key
    number, digits = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return _BASE58[0] * (len(data) - len(data.lstrip(b"\0"))) + digits


def verify(public_key: bytes, signature: bytes, digest: bytes) -> bool:
    """Return whether `signature` (64 bytes, r ‖ s) over a 32-byte digest was made with this compressed public
    key.

    Only low-s signatures are accepted, as in all other implementations.
    """
    if len(signature) != SIGNATURE_BYTES:
        return False
    try:
        der = ecdsa.cdata_to_der(ecdsa.deserialize_compact(signature))
        return coincurve.PublicKey(public_key).verify(der, digest, hasher=None)
    except ValueError:
        return False


class Identity:
    """A node's secret key. Neither `repr` nor errors reveal it."""

    __slots__ = ("_key", "node_id", "peer_id", "public_key")

    def __init__(self, secret: bytes) -> None:
        """Create from a 32-byte secret. Raise ValueError if it is not a valid key."""
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a secret key has {SECRET_BYTES} bytes, this one has {len(secret)}")
        try:
            self._key = coincurve.PrivateKey(secret)
        except ValueError:
            raise ValueError("not a secp256k1 secret key") from None
        self.public_key: bytes = self._key.public_key.format()
        self.node_id = node_id_of(self.public_key)
        self.peer_id = peer_id_of(self.public_key)

    def sign(self, digest: bytes) -> bytes:
        """Sign a 32-byte digest. Return 64 bytes, r ‖ s (RFC 6979, low s)."""
        return self._key.sign_recoverable(digest, hasher=None)[:SIGNATURE_BYTES]

    def ecdh(self, public_key: bytes) -> bytes:
        """Return the shared point of a public key and this secret, compressed, 33 bytes.

        Raise ValueError if `public_key` is invalid.
        """
        return coincurve.PublicKey(public_key).multiply(self._key.secret).format()

    def __repr__(self) -> str:
        return f"Identity(node_id={self.node_id.hex()[:16]}…)"

    def __reduce__(self) -> str:
        raise TypeError("a secret key cannot be pickled")
