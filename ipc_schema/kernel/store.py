"""`store.query`: history of the network, from another node or from this node's own archive (SPEC.md §3.3).

Messages travel as pairs of blobs: a header (append-only array) and the payload.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, NamedTuple

from msgpack import packb

from ipc_schema.body import Bin32, Body, Method, Ns, Range, Row, Size
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.fields import FieldError
from ipc_schema.frames import unpack_header
from ipc_schema.kernel.events import MAX_EVENT_HEADER
from ipc_schema.kernel.values import PeerName
from ipc_schema.message import MAX_META_SIZE, WakuMessage

__all__ = [
    "MAX_STORE_CONTENT_TOPICS",
    "MAX_STORE_HASHES",
    "MAX_STORE_MESSAGES",
    "MAX_STORE_PAGE",
    "METHODS",
    "STORE_QUERY",
    "StoreQueryReply",
    "StoreQueryRequest",
    "StoredMessage",
    "blob_messages",
    "store_blobs",
    "stored_messages",
]

STORE_QUERY: Final = "store.query"

MAX_STORE_PAGE: Final = 100
MAX_STORE_MESSAGES: Final = 2000
"""Most messages in one reply: each takes two blobs."""
MAX_STORE_HASHES: Final = 1000
MAX_STORE_CONTENT_TOPICS: Final = 100


class StoreQueryRequest(Body):
    """A message must match every criterion given; times are inclusive.

    Without `max_messages`, one page of at most `limit` is requested; with it, pages are followed until
    there are that many messages or no more. `peer` is a peer id or a multiaddr; None: a good peer is
    chosen; the node's own peer id: its own archive.
    """

    pubsub_topic: str | None = None
    content_topics: Annotated[tuple[str, ...], Size(MAX_STORE_CONTENT_TOPICS)] = ()
    time_start: Ns | None = None
    time_end: Ns | None = None
    hashes: Annotated[tuple[Bin32, ...], Size(MAX_STORE_HASHES)] = ()
    cursor: Bin32 | None = None
    forward: bool = True
    limit: Annotated[int, Range(1, MAX_STORE_PAGE)] = 20
    include_data: bool = False
    max_messages: Annotated[int, Range(1, MAX_STORE_MESSAGES)] | None = None
    peer: PeerName | None = None


class StoreQueryReply(Body):
    """`hashes` of the messages found, oldest first; `cursor` for the next page in the query's direction, or
    None.

    With data, two blobs per hash (`store_blobs`).
    """

    peer: PeerName
    hashes: Annotated[tuple[Bin32, ...], Size(MAX_STORE_MESSAGES)]
    cursor: Bin32 | None = None


class StoredMessage(NamedTuple):
    """One message of a reply with data."""

    message_hash: bytes
    pubsub_topic: str
    message: WakuMessage


class _Header(NamedTuple):
    pubsub_topic: str
    content_topic: Annotated[str, Size(MAX_EVENT_HEADER)]
    timestamp: Ns
    meta: Annotated[bytes, Size(MAX_META_SIZE)]
    ephemeral: bool
    message_version: Annotated[int, Range(0, 0xFFFF_FFFF)]
    proof: bytes


_header = Row(_Header)


def store_blobs(messages: Iterable[tuple[str, WakuMessage]]) -> list[bytes]:
    """Return the blobs of (pubsub topic, message) pairs."""
    blobs: list[bytes] = []
    for topic, (payload, content_topic, version, timestamp, meta, proof, ephemeral) in messages:
        blobs.append(packb((topic, content_topic, timestamp, meta, ephemeral, version, proof)))
        blobs.append(payload)
    return blobs


def stored_messages(reply: StoreQueryReply, blobs: Sequence[bytes]) -> list[StoredMessage]:
    """Return the messages of a reply with data.

    Raises `IpcError` (`bad_request`) if the blobs do not match.
    """
    needed = 2 * len(reply.hashes)
    if len(blobs) != needed:
        raise IpcError(
            ErrorCode.BAD_REQUEST,
            f"{STORE_QUERY} reply: {len(reply.hashes)} messages need {needed} blobs, not {len(blobs)}",
        )
    messages = blob_messages(f"{STORE_QUERY} reply", blobs)
    return [
        StoredMessage(digest, topic, message)
        for digest, (topic, message) in zip(reply.hashes, messages, strict=True)
    ]


def blob_messages(where: str, blobs: Sequence[bytes]) -> list[tuple[str, WakuMessage]]:
    """Return the (pubsub topic, message) pairs of `store_blobs`. Raises `IpcError` (`bad_request`)."""
    if len(blobs) % 2:
        raise IpcError(ErrorCode.BAD_REQUEST, f"{where}: two blobs for each message, not {len(blobs)}")
    found = []
    for header, payload in zip(blobs[::2], blobs[1::2], strict=True):
        try:
            row = _header.read(unpack_header(header, MAX_EVENT_HEADER))
        except FieldError as error:
            raise error.to_ipc(f"{where}: header of a message") from None
        topic, content_topic, timestamp, meta, ephemeral, version, proof = row
        message = WakuMessage(payload, content_topic, version, timestamp, meta, proof, ephemeral)
        found.append((topic, message))
    return found


METHODS: Final[dict[str, Method]] = {
    STORE_QUERY: Method(StoreQueryRequest, StoreQueryReply),
}
