"""`relay.publish`, `relay.publish_many`, `relay.peers`, `relay.mesh`, and the request that every publishing
method takes (SPEC.md §3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Self

from ipc_schema.body import Bin32, Body, Method, Ns, Range, Size, Uint
from ipc_schema.errors import MAX_ERROR_TEXT, ErrorCode, IpcError
from ipc_schema.fields import INT64_MAX, INT64_MIN, MAX_TEXT
from ipc_schema.kernel.values import Shard
from ipc_schema.many import MAX_ROWS, check_blobs, usual_rows
from ipc_schema.message import MAX_META_SIZE, WakuMessage
from ipc_schema.topics import MAX_SHARD

__all__ = [
    "FEATURE_PUBLISH_MANY",
    "MAX_PUBLISH_BYTES",
    "METHODS",
    "RELAY_MESH",
    "RELAY_PEERS",
    "RELAY_PUBLISH",
    "RELAY_PUBLISH_MANY",
    "PublishRequest",
    "RelayPeersReply",
    "RelayPeersRequest",
    "RelayPublishManyReply",
    "RelayPublishManyRequest",
    "RelayPublishReply",
    "RelayPublishRequest",
]

RELAY_PUBLISH: Final = "relay.publish"
RELAY_PUBLISH_MANY: Final = "relay.publish_many"
RELAY_PEERS: Final = "relay.peers"
RELAY_MESH: Final = "relay.mesh"

FEATURE_PUBLISH_MANY: Final = "publish_many"
"""In a hello's `features`: the kernel has `relay.publish_many`."""
MAX_PUBLISH_BYTES: Final = 4 << 20
"""Most payload bytes of a `relay.publish_many`."""

_Meta = Annotated[bytes, Size(MAX_META_SIZE)]
_MAX_UINT32: Final = 0xFFFF_FFFF
_Version = Annotated[int, Range(0, _MAX_UINT32)]


class PublishRequest(Body):
    """A message to publish, with its payload as blob 0.

    Without topic and shard the content topic decides (autosharding); without a timestamp the publishing
    node sets it.
    """

    content_topic: str
    pubsub_topic: str | None = None
    shard: Shard | None = None
    timestamp: Ns | None = None
    meta: _Meta = b""
    version: _Version = 0
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


class RelayPublishManyRequest(Body):
    """Publish several messages to the relay's peers, in order; the payload of each is the blob of its number.

    Of each message: content topic, shard, timestamp (0: the kernel sets it), meta, version, ephemeral, proof,
    force.
    """

    messages: Annotated[tuple[tuple[str, Shard, Ns, _Meta, _Version, bool, bytes, bool], ...], Size(MAX_ROWS)]

    @classmethod
    def from_body(cls, body: Mapping[str, object], where: str = "") -> Self:
        """See `Body`."""
        rows = usual_rows(body.get("messages"), _is_usual_message)
        return super().from_body(body, where) if rows is None else cls(messages=rows)

    def check(self, blobs: Sequence[bytes]) -> None:
        """Raise `IpcError`: `bad_request` unless each message has its blob, `too_large` if they are too
        large together."""
        check_blobs(blobs, len(self.messages), "messages", MAX_PUBLISH_BYTES)


class RelayPublishManyReply(Body):
    """The outcome of each message, in the same order: code and text of its error (both empty: it was sent),
    message hash and timestamp (given if it was sent, and with `no_peers`; else empty and 0), how many peers
    it was sent to, and whether it was in the seen cache."""

    results: Annotated[
        tuple[
            tuple[
                Annotated[str, Size(64)],
                Annotated[str, Size(MAX_ERROR_TEXT * 4)],
                Annotated[bytes, Size(32)],
                Ns,
                Uint,
                bool,
            ],
            ...,
        ],
        Size(MAX_ROWS),
    ]

    @classmethod
    def from_body(cls, body: Mapping[str, object], where: str = "") -> Self:
        """See `Body`."""
        rows = usual_rows(body.get("results"), _is_usual_result)
        return super().from_body(body, where) if rows is None else cls(results=rows)


# The checks of the annotations, inlined for what comes most; the annotations word the error.


def _is_usual_message(row: Any) -> bool:
    if type(row) is not list or len(row) != 8:
        return False
    content_topic, shard, timestamp, meta, version, ephemeral, proof, force = row
    return (
        type(content_topic) is str
        and len(content_topic) <= MAX_TEXT
        and content_topic.isascii()
        and type(shard) is int
        and 0 <= shard <= MAX_SHARD
        and type(timestamp) is int
        and INT64_MIN <= timestamp <= INT64_MAX
        and type(meta) is bytes
        and len(meta) <= MAX_META_SIZE
        and type(version) is int
        and 0 <= version <= _MAX_UINT32
        and type(ephemeral) is bool
        and type(proof) is bytes
        and type(force) is bool
    )


def _is_usual_result(row: Any) -> bool:
    if type(row) is not list or len(row) != 6:
        return False
    code, text, digest, timestamp, peers, duplicate = row
    return (
        code == ""
        and text == ""
        and type(digest) is bytes
        and len(digest) <= 32
        and type(timestamp) is int
        and INT64_MIN <= timestamp <= INT64_MAX
        and type(peers) is int
        and 0 <= peers <= INT64_MAX
        and type(duplicate) is bool
    )


class RelayPeersRequest(Body):
    """Request of `relay.peers` and `relay.mesh`; None: all topics."""

    pubsub_topic: str | None = None


class RelayPeersReply(Body):
    """Pubsub topic → peer ids."""

    topics: dict[str, tuple[str, ...]]


METHODS: Final[dict[str, Method]] = {
    RELAY_PUBLISH: Method(RelayPublishRequest, RelayPublishReply),
    RELAY_PUBLISH_MANY: Method(RelayPublishManyRequest, RelayPublishManyReply),
    RELAY_PEERS: Method(RelayPeersRequest, RelayPeersReply),
    RELAY_MESH: Method(RelayPeersRequest, RelayPeersReply),
}
