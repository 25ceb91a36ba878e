"""Encryption of a channel's contents: the hook, and the built-in cipher.

A cipher that fails to encrypt fails the send; plain text is never sent in a channel that has one. A message
that cannot be decrypted is refused before it can change the channel's state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import urandom
from typing import Final, Protocol

from Crypto.Cipher import ChaCha20_Poly1305

KEY_SIZE: Final = 32
_NONCE_SIZE: Final = 24
_TAG_SIZE: Final = 16
_MAX_KEYS: Final = 8


class CipherError(Exception):
    """Encryption or decryption failed. The text holds nothing secret."""


class Cipher(Protocol):
    """The hook of a channel. `context` names the channel (and, for contents, the sender): bind the ciphertext
    to it if the cipher can, so that it is worth nothing anywhere else. Both raise `CipherError`."""

    def encrypt(self, plain: bytes, context: bytes) -> bytes: ...
    def decrypt(self, sealed: bytes, context: bytes) -> bytes: ...


class XChaCha:
    """XChaCha20-Poly1305: 24 bytes of random nonce, the ciphertext, 16 bytes of tag.

    The first key encrypts, all of them decrypt: give the new key first while participants change over. Keys
    never appear in `repr`, and so neither in logs nor in tracebacks' values.
    """

    __slots__ = ("_keys", "_random")

    def __init__(self, keys: Sequence[bytes], random: Callable[[int], bytes] = urandom) -> None:
        if not 1 <= len(keys) <= _MAX_KEYS:
            raise ValueError(f"a channel has 1 to {_MAX_KEYS} keys")
        if any(len(key) != KEY_SIZE for key in keys):
            raise ValueError(f"a channel key has {KEY_SIZE} bytes")
        self._keys = tuple(keys)
        self._random = random

    def __repr__(self) -> str:
        return f"XChaCha({len(self._keys)} keys)"

    def encrypt(self, plain: bytes, context: bytes) -> bytes:
        nonce = self._random(_NONCE_SIZE)
        cipher = ChaCha20_Poly1305.new(key=self._keys[0], nonce=nonce)
        cipher.update(context)
        sealed, tag = cipher.encrypt_and_digest(plain)
        return b"".join((nonce, sealed, tag))

    def decrypt(self, sealed: bytes, context: bytes) -> bytes:
        if len(sealed) < _NONCE_SIZE + _TAG_SIZE:
            raise CipherError(f"{len(sealed)} bytes are too short to be encrypted")
        nonce, body, tag = sealed[:_NONCE_SIZE], sealed[_NONCE_SIZE:-_TAG_SIZE], sealed[-_TAG_SIZE:]
        for key in self._keys:
            cipher = ChaCha20_Poly1305.new(key=key, nonce=nonce)
            cipher.update(context)
            try:
                plain: bytes = cipher.decrypt_and_verify(body, tag)
            except ValueError:
                continue
            return plain
        raise CipherError("wrong key, or the message was changed")
