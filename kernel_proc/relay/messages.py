"""What the relay tells its users, and the errors it raises.

```
RelayError
├── RelayMessageTooLarge    the RPC that would carry it exceeds the maximum; never sent
├── RelayMessageInvalid     no WakuMessage, or a validator refuses it: every peer would, too
└── RelayBadTopic           empty or blank topic
```
"""

from __future__ import annotations

from typing import NamedTuple

from ipc_schema.message import WakuMessage

__all__ = [
    "PublishResult",
    "RelayBadTopic",
    "RelayError",
    "RelayMessage",
    "RelayMessageInvalid",
    "RelayMessageTooLarge",
]


class RelayMessage(NamedTuple):
    """A valid message that was new to this node."""

    topic: str
    data: bytes
    """The encoded WakuMessage exactly as received; `message` is its decoded form."""
    message: WakuMessage
    message_id: bytes
    """sha256(data): the id of the gossip, not the deterministic hash of the message."""
    from_peer: str
    """Who passed it on; empty for an own publish under validation."""
    received_ns: int
    """Wall clock, nanoseconds since 1970."""


class PublishResult(NamedTuple):
    message_id: bytes
    peers: int
    """Peers the message was queued for; 0 if there are none, or for a duplicate that was not forced."""
    duplicate: bool
    """The same bytes were seen on this topic within the seen time (own or received)."""


class RelayError(Exception):
    """Root of what the relay raises."""

    retriable = False


class RelayMessageTooLarge(RelayError):
    def __init__(self, limit: int) -> None:
        super().__init__(f"Message size exceeded maximum of {limit} bytes")
        self.limit = limit


class RelayMessageInvalid(RelayError):
    pass


class RelayBadTopic(RelayError):
    pass
