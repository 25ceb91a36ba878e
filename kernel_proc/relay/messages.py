"""Results and errors of the relay.

```
RelayError
├── RelayMessageTooLarge    the RPC that would carry it exceeds the maximum; never sent
├── RelayMessageInvalid     not a WakuMessage, or rejected by a validator, as every peer would
└── RelayBadTopic           empty or blank topic
```
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NamedTuple

from ipc_schema.message import WakuMessage

_empty: Final = sha256()


def message_id_of(data: bytes) -> bytes:
    """Return the GossipSub message id, sha256(data) (11/WAKU2-RELAY)."""
    digest = _empty.copy()  # a new one would look the algorithm up first
    digest.update(data)
    return digest.digest()


class RelayMessage(NamedTuple):
    """A valid message that this node had not seen before."""

    topic: str
    data: bytes
    """The encoded WakuMessage exactly as received. `message` is its decoded form."""
    message: WakuMessage
    message_id: bytes
    """sha256(data), the GossipSub message id; not the deterministic message hash of 14/WAKU2-MESSAGE."""
    from_peer: str
    """The peer that forwarded it; empty for our own message under validation."""
    received_ns: int
    """Wall-clock time of receipt in nanoseconds since the Unix epoch."""


class PublishResult(NamedTuple):
    message_id: bytes
    peers: int
    """Number of peers the message was queued for. 0 without peers, or for a duplicate that was not forced."""
    duplicate: bool
    """The same bytes were sent or received on this topic within the seen TTL."""


class RelayError(Exception):
    """Root of the relay's errors."""

    retriable = False


class RelayMessageTooLarge(RelayError):
    def __init__(self, limit: int) -> None:
        super().__init__(f"Message size exceeded maximum of {limit} bytes")
        self.limit = limit


class RelayMessageInvalid(RelayError):
    pass


class RelayBadTopic(RelayError):
    pass
