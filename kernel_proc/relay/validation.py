"""Message validation: validators, and protected shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from hashlib import sha256

import coincurve

from ipc_schema.message import WakuMessage
from kernel_proc.relay.messages import RelayMessage

PROTECTED_SHARD_WINDOW_NS = 5 * 60 * 1_000_000_000


class Verdict(Enum):
    ACCEPT = "accept"
    IGNORE = "ignore"
    """Drop the message without penalising the sender."""
    REJECT = "reject"
    """Drop the message and lower the sender's score (P4)."""


Validator = Callable[[RelayMessage], Verdict]


def judge(validators: Iterable[Validator], message: RelayMessage) -> Verdict:
    """Return the first verdict other than ACCEPT, or ACCEPT."""
    for validator in validators:
        verdict = validator(message)
        if verdict is not Verdict.ACCEPT:
            return verdict
    return Verdict.ACCEPT


def protected_shard_hash(topic: str, message: WakuMessage) -> bytes:
    """Return the hash that a protected shard's signature covers (the "app hash" of nwaku).

    sha256(pubsub topic ‖ payload ‖ content topic ‖ timestamp, 8 bytes little-endian ‖ ephemeral, 1 byte).
    `meta` is excluded because it holds the signature.
    """
    return sha256(
        b"".join(
            (
                topic.encode(),
                message.payload,
                message.content_topic.encode(),
                message.timestamp.to_bytes(8, "little", signed=True),
                b"\x01" if message.ephemeral else b"\x00",
            )
        )
    ).digest()


class SignedShard:
    """Validate messages on a shard to which only a key's owner may publish (nwaku's `--protected-shard`).

    The message needs a timestamp less than five minutes off and, in `meta`, a compact secp256k1 signature (r
    ‖ s, 64 bytes) by `public_key` (33 or 65 bytes; ValueError if invalid).
    """

    def __init__(self, topic: str, public_key: bytes, wall_clock_ns: Callable[[], int]) -> None:
        self._topic = topic
        self._key = coincurve.PublicKey(public_key)
        self._clock = wall_clock_ns

    def __call__(self, message: RelayMessage) -> Verdict:
        waku = message.message
        if message.topic != self._topic:
            return Verdict.ACCEPT
        if waku.timestamp == 0 or abs(self._clock() - waku.timestamp) >= PROTECTED_SHARD_WINDOW_NS:
            return Verdict.REJECT
        return Verdict.ACCEPT if self.is_signed(message.topic, waku) else Verdict.REJECT

    def is_signed(self, topic: str, message: WakuMessage) -> bool:
        """Return whether a message, of any age, may be on its topic: signed, or on another topic."""
        if topic != self._topic:
            return True
        return len(message.meta) == 64 and self._signed(message.meta, protected_shard_hash(topic, message))

    def _signed(self, compact: bytes, digest: bytes) -> bool:
        try:
            signature = coincurve.ecdsa.deserialize_compact(compact)
        except ValueError:  # r or s is not below the group order
            return False
        return self._key.verify(coincurve.ecdsa.cdata_to_der(signature), digest, hasher=None)
