"""The events of a `KernelFeed`: the kernel's own, and reports of losses.

Streams are named as in the contract: `m/<cluster>/<shard>` for messages, `p` for health, `n` for peers.
(instance, epoch, seq) identifies an event's position in its stream: `instance` changes with each start of
the kernel, `epoch` with each activation of the stream, `seq` has no gaps.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from ipc_schema.kernel import events as wire
from ipc_schema.kernel.events import SOURCE_FILTER, SOURCE_RELAY, SOURCE_SELF
from ipc_schema.kernel.records import PeerRecord
from logos_client._event_form import EventForm

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


_SOURCES: Final = {SOURCE_RELAY: "relay", SOURCE_FILTER: "filter", SOURCE_SELF: "self"}


def source_name(source: int) -> str:
    """Return the word for a message's source; its number if it is one of a later version."""
    return _SOURCES.get(source, str(source))


class _KernelMessage(NamedTuple):
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


class KernelMessage(EventForm, _KernelMessage):
    """A message on a shard. `source` is `SOURCE_RELAY`, `SOURCE_FILTER` or `SOURCE_SELF`."""

    __slots__ = ()
    kind = "message"


class HealthEvent(EventForm, wire.HealthEvent):
    """The node's health changed; `health` is complete."""

    __slots__ = ()
    kind = "health"


class PeerEvent(EventForm, wire.PeerEvent):
    """A peer joined, left or changed (`change` is a `PeerChange`; others may come)."""

    __slots__ = ()
    kind = "peer"


class _PeersSnapshot(NamedTuple):
    peers: tuple[PeerRecord, ...]


class PeersSnapshot(EventForm, _PeersSnapshot):
    """All peers, requested because peer events were lost."""

    __slots__ = ()
    kind = "peers_snapshot"


class _StreamLoss(NamedTuple):
    stream: str
    first: int
    last: int | None
    reason: str


class StreamLoss(EventForm, _StreamLoss):
    """Events `first` to `last` of a stream are lost.

    `last` None: the stream restarted, and the number lost is unknown.
    """

    __slots__ = ()
    kind = "stream_loss"


class _KernelLost(NamedTuple):
    reason: str


class KernelLost(EventForm, _KernelLost):
    """The kernel is unreachable. The client keeps trying."""

    __slots__ = ()
    kind = "kernel_lost"


class _KernelFound(NamedTuple):
    instance: bytes
    restarted: bool


class KernelFound(EventForm, _KernelFound):
    """The kernel is back; `restarted`: as a new instance, so its streams start at seq 1 again."""

    __slots__ = ()
    kind = "kernel_found"


KernelEvent: TypeAlias = (
    KernelMessage | HealthEvent | PeerEvent | PeersSnapshot | StreamLoss | KernelLost | KernelFound
)
