"""Sessions: the keys shared with a node at an endpoint, and the challenges that lead to them."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kernel_proc.discovery.discv5.crypto import NONCE_BYTES
from kernel_proc.discovery.discv5.endpoint import NodeContact
from kernel_proc.discovery.enr import Enr
from kernel_proc.token_buckets import LruDict

MAX_MESSAGES: Final = 2**32 - 1
"""Maximum messages per key: their counter is the first part of the nonce, which must never repeat
(AES-GCM)."""
_COUNTER: Final = 4
NONCE_RANDOM: Final = NONCE_BYTES - _COUNTER
_CHALLENGES_PER_CONTACT: Final = 3


class _Keys:
    __slots__ = ("proven", "receive", "send", "sent")

    def __init__(self, send: bytes, receive: bytes, proven: bool) -> None:
        self.send = AESGCM(send)
        self.receive = AESGCM(receive)
        self.proven = proven
        self.sent = 0


class Session:
    """The keys shared with one contact, and the previous pair of keys.

    The previous pair is kept for decryption: if both nodes start a handshake at the same time there are two
    valid pairs, and each node may consider the other one newer. Whichever pair the other node is seen to use
    becomes the one we use, so that both converge.
    """

    __slots__ = ("_current", "_older", "generation", "record")

    def __init__(self, send: bytes, receive: bytes, record: Enr, *, proven: bool) -> None:
        """`proven`: the other node has shown that it has these keys."""
        self.record = record
        """The other node's record as of the last handshake."""
        self._current = _Keys(send, receive, proven)
        self._older: _Keys | None = None
        self.generation = 1
        """Number of handshakes."""

    def rekey(self, send: bytes, receive: bytes, record: Enr, *, proven: bool) -> None:
        """Replace the keys after a new handshake."""
        self.record = record
        self._current, self._older = _Keys(send, receive, proven), self._current
        self.generation += 1

    @property
    def proven(self) -> bool:
        """Whether requests may be sent: the other node has the keys for certain, and they are not
        exhausted."""
        return self._current.proven and self._current.sent < MAX_MESSAGES

    def next_nonce(self, random: bytes) -> bytes:
        """Return a nonce that no other message under these keys has. `random` are NONCE_RANDOM bytes."""
        # AES-GCM fails completely if a nonce repeats under one key: a counter, since 96 random bits alone are
        # safe for some 2^32 messages only (discv5-theory).
        self._current.sent += 1
        return self._current.sent.to_bytes(_COUNTER, "big") + random

    def seal(self, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
        """Encrypt for the other node."""
        return self._current.send.encrypt(nonce, plaintext, associated)

    def open(self, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes | None:
        """Decrypt a message. Return None if it is under other keys."""
        for keys in (self._current, self._older):
            if keys is None:
                continue
            try:
                plaintext = keys.receive.decrypt(nonce, ciphertext, associated)
            except InvalidTag:
                continue
            if keys is not self._current:
                self._current, self._older = keys, self._current
            keys.proven = True
            return plaintext
        return None


class Challenge(NamedTuple):
    """A WHOAREYOU that we sent."""

    data: bytes
    record: Enr | None
    """The record known of the node, whose sequence number was in the challenge."""
    expires: float


class Challenges:
    """Open challenges: the last few per contact, for a limited number of contacts.

    Several per contact, because a node may have several messages in flight, each of which gets its own
    challenge, and because an attacker forging the sender's address could overwrite a single one.
    """

    __slots__ = ("_challenges",)

    def __init__(self, capacity: int) -> None:
        self._challenges: LruDict[NodeContact, deque[Challenge]] = LruDict(capacity)

    def add(self, contact: NodeContact, challenge: Challenge) -> None:
        known = self._challenges.get(contact) or deque(maxlen=_CHALLENGES_PER_CONTACT)
        known.append(challenge)
        self._challenges.put(contact, known)

    def of(self, contact: NodeContact, now: float) -> list[Challenge]:
        """Return the open challenges of a contact, newest first."""
        known = self._challenges.get(contact) or ()
        return [challenge for challenge in reversed(known) if challenge.expires > now]

    def discard(self, contact: NodeContact) -> None:
        """Remove the challenges of a contact that has authenticated."""
        self._challenges.pop(contact)

    def __len__(self) -> int:
        return len(self._challenges)
