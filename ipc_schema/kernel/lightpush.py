"""`lightpush.publish`: have another node publish a message (SPEC.md §3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from ipc_schema.body import Bin32, Body, Ns, Range, Size, Uint
from ipc_schema.message import MAX_META_SIZE

__all__ = ["LIGHTPUSH_PUBLISH", "LightpushPublishReply", "LightpushPublishRequest"]

LIGHTPUSH_PUBLISH: Final = "lightpush.publish"

_PeerName = Annotated[str, Size(1024, 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LightpushPublishRequest(Body):
    """Publish blob 0 through another node. Without topic and shard the content topic decides (autosharding).

    `peer` is a peer id or a multiaddr; None: good peers are tried until one has done it.
    """

    WHERE = LIGHTPUSH_PUBLISH

    content_topic: str
    pubsub_topic: str | None = None
    shard: Annotated[int, Range(0, 0xFFFF)] | None = None
    timestamp: Ns | None = None
    meta: Annotated[bytes, Size(MAX_META_SIZE)] = b""
    version: Annotated[int, Range(0, 0xFFFF_FFFF)] = 0
    ephemeral: bool = False
    proof: bytes = b""
    peer: _PeerName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LightpushPublishReply(Body):
    """`peer` has published it, to `relay_peers` peers of its own (None: the legacy version does not say)."""

    WHERE = "lightpush.publish reply"

    message_hash: Bin32
    timestamp: Ns
    pubsub_topic: str
    peer: _PeerName
    relay_peers: Uint | None = None
