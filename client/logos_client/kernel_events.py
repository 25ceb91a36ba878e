"""What a `KernelFeed` gives: the kernel's events, and what was lost of them.

Streams are named as in the contract: `m/<cluster>/<shard>` for messages, `p` for health, `n` for peers.
(instance, epoch, seq) places an event in its stream: `instance` changes with each start of the kernel,
`epoch` with each activation of the stream, `seq` has no gaps.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from ipc_schema.kernel.events import SOURCE_FILTER, SOURCE_RELAY, SOURCE_SELF, HealthEvent, PeerEvent
from ipc_schema.kernel.records import PeerRecord

__all__ = [
    "SOURCE_FILTER",
    "SOURCE_RELAY",
    "SOURCE_SELF",
    "HealthEvent",
    "KernelEvent",
    "KernelFound",
    "KernelLost",
    "KernelMessage",
    "PeerEvent",
    "PeersSnapshot",
    "StreamLoss",
]


class KernelMessage(NamedTuple):
    """A message on a shard. `source` is `SOURCE_RELAY`, `SOURCE_FILTER` or `SOURCE_SELF`."""

    stream: str
    instance: bytes
    epoch: bytes
    seq: int
    time_ns: int
    content_topic: str
    payload: bytes
    message_hash: bytes
    timestamp: int
    meta: bytes
    ephemeral: bool
    version: int
    proof: bytes
    source: int


class PeersSnapshot(NamedTuple):
    """All peers, asked for because peer events were lost."""

    peers: tuple[PeerRecord, ...]


class StreamLoss(NamedTuple):
    """Events `first` to `last` of a stream are lost. `last` None: how many is unknown, the stream began
    anew."""

    stream: str
    first: int
    last: int | None
    reason: str


class KernelLost(NamedTuple):
    """The kernel cannot be reached. The client goes on trying."""

    reason: str


class KernelFound(NamedTuple):
    """The kernel is back; `restarted`: as a new instance, so its streams begin anew."""

    instance: bytes
    restarted: bool


KernelEvent: TypeAlias = (
    KernelMessage | HealthEvent | PeerEvent | PeersSnapshot | StreamLoss | KernelLost | KernelFound
)
