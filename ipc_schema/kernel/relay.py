"""`relay.publish`, `relay.peers`, `relay.mesh`, and the request that every publishing method takes (SPEC.md
§3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from ipc_schema.body import Bin32, Body, Method, Ns, Range, Size, Uint
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.kernel.values import Shard
from ipc_schema.message import MAX_META_SIZE, WakuMessage

__all__ = [
    "METHODS",
    "RELAY_MESH",
    "RELAY_PEERS",
    "RELAY_PUBLISH",
    "PublishRequest",
    "RelayPeersReply",
    "RelayPeersRequest",
    "RelayPublishReply",
    "RelayPublishRequest",
]

RELAY_PUBLISH: Final = "relay.publish"
RELAY_PEERS: Final = "relay.peers"
RELAY_MESH: Final = "relay.mesh"


class PublishRequest(Body):
    """A message to publish, with its payload as blob 0.

    Without topic and shard the content topic decides (autosharding); without a timestamp the publishing
    node sets it.
    """

    content_topic: str
    pubsub_topic: str | None = None
    shard: Shard | None = None
    timestamp: Ns | None = None
    meta: Annotated[bytes, Size(MAX_META_SIZE)] = b""
    version: Annotated[int, Range(0, 0xFFFF_FFFF)] = 0
    ephemeral: bool = False
    proof: bytes = b""

    def message(self, blobs: Sequence[bytes]) -> WakuMessage:
        """Return the message in body and blobs; a timestamp of 0 counts as none.

        Raises `IpcError` (`bad_request`) unless there is exactly one blob.
        """
        if len(blobs) != 1:
            raise IpcError(ErrorCode.BAD_REQUEST, f"{len(blobs)} blobs, one is needed: the payload")
        return WakuMessage(
            payload=blobs[0],
            content_topic=self.content_topic,
            version=self.version,
            timestamp=self.timestamp or 0,
            meta=self.meta,
            proof=self.proof,
            ephemeral=self.ephemeral,
        )


class RelayPublishRequest(PublishRequest):
    """Publish to the relay's peers; `force`: even if it is in the seen cache."""

    force: bool = False


class RelayPublishReply(Body):
    """`peers`: how many it was sent to; `duplicate`: in the seen cache, nothing was sent."""

    message_hash: Bin32
    timestamp: Ns
    pubsub_topic: str
    peers: Uint
    duplicate: bool = False


class RelayPeersRequest(Body):
    """Request of `relay.peers` and `relay.mesh`; None: all topics."""

    pubsub_topic: str | None = None


class RelayPeersReply(Body):
    """Pubsub topic → peer ids."""

    topics: dict[str, tuple[str, ...]]


METHODS: Final[dict[str, Method]] = {
    RELAY_PUBLISH: Method(RelayPublishRequest, RelayPublishReply),
    RELAY_PEERS: Method(RelayPeersRequest, RelayPeersReply),
    RELAY_MESH: Method(RelayPeersRequest, RelayPeersReply),
}
