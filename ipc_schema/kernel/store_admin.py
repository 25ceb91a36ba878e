"""`store.status`, `store.sync`, `store.verify`, `store.import`: the node's own archive (SPEC.md §3.3)."""

from __future__ import annotations

from typing import Annotated, Final

from ipc_schema.body import Bin32, Body, Empty, Method, Ns, Range, Size, Uint
from ipc_schema.kernel.values import PeerName

__all__ = [
    "MAX_IMPORT",
    "MAX_VERIFY",
    "METHODS",
    "STORE_IMPORT",
    "STORE_STATUS",
    "STORE_SYNC",
    "STORE_VERIFY",
    "StoreGapRecord",
    "StoreImportReply",
    "StoreImportRequest",
    "StoreRefusal",
    "StoreResumeRecord",
    "StoreSessionRecord",
    "StoreStatusReply",
    "StoreSyncRecord",
    "StoreSyncRequest",
    "StoreTopicRecord",
    "StoreVerifyReply",
    "StoreVerifyRequest",
]

STORE_STATUS: Final = "store.status"
STORE_SYNC: Final = "store.sync"
STORE_VERIFY: Final = "store.verify"
STORE_IMPORT: Final = "store.import"

MAX_VERIFY: Final = 1000
MAX_IMPORT: Final = 32
"""Messages of one request: each takes two of its blobs."""
MAX_TOPICS: Final = 1024


class StoreTopicRecord(Body):
    """What the archive has of a pubsub topic; times are those of the oldest and the newest message."""

    pubsub_topic: str
    messages: Uint
    oldest: Ns
    newest: Ns


class StoreSessionRecord(Body):
    """A session of store sync that this node opened: reply of `store.sync`.

    `missing`: messages that the peer listed and this node lacked; `received`: those that have come, listed
    or not; `to_send`: what the peer lacked; `sent`: what it was given. `complete` False: there was more than
    fits in one session. `at_ms`: when it ended, ms since 1970. `error` is empty unless it failed.
    """

    peer: str
    at_ms: Uint = 0
    took_ms: Uint = 0
    round_trips: Uint = 0
    missing: Uint = 0
    received: Uint = 0
    to_send: Uint = 0
    sent: Uint = 0
    complete: bool = True
    error: str = ""


class StoreSyncRecord(Body):
    """State of store sync: `messages` from `start` to `end` are compared (ns); `peers` speak it; `sessions`
    of either side since the start; `last`: the last one that this node opened."""

    ready: bool
    messages: Uint
    start: Ns
    end: Ns
    peers: Uint = 0
    sessions: Uint = 0
    last: StoreSessionRecord | None = None


class StoreGapRecord(Body):
    """A time that is being fetched: all before `done` is there."""

    pubsub_topic: str
    start: Ns
    done: Ns


class StoreResumeRecord(Body):
    """State of store resume: `planning`, `waiting` (for the reason in `error`), `fetching`, `done`.

    `gaps` are left; `added`: messages that the archive did not have.
    """

    state: str
    added: Uint = 0
    gaps: Annotated[tuple[StoreGapRecord, ...], Size(MAX_TOPICS)] = ()
    error: str = ""


class StoreStatusReply(Body):
    """`state`: opening, ready, stalled (for the `reason`) or closed; `waiting`: messages to be written;
    `sync` and `resume`: None if they are off.

    `spooled` of those that wait are on disk, with `spooled_bytes`; `away_ms`: how long the database has been
    away; `replica_lag_ms`: how far the one that is read from is behind, None if there is none. While the
    database is away, `topics` may be empty and `messages` 0.
    """

    state: str
    reason: str = ""
    database: str
    peer_id: str
    messages: Uint
    bytes: Uint | None = None
    waiting: Uint = 0
    retention: str = ""
    topics: Annotated[tuple[StoreTopicRecord, ...], Size(MAX_TOPICS)] = ()
    sync: StoreSyncRecord | None = None
    resume: StoreResumeRecord | None = None
    spooled: Uint = 0
    spooled_bytes: Uint = 0
    away_ms: Uint = 0
    replica_lag_ms: Uint | None = None


class StoreSyncRequest(Body):
    """Open a session of store sync now. `peer`: a peer id or a multiaddr; None: the one that is due."""

    peer: PeerName | None = None


class StoreVerifyRequest(Body):
    """Recompute the hashes of up to `limit` messages of a pubsub topic, behind `cursor`, oldest first."""

    pubsub_topic: str
    cursor: Bin32 | None = None
    limit: Annotated[int, Range(1, MAX_VERIFY)] = 500


class StoreVerifyReply(Body):
    """`bad`: hashes under which there is another message, or none that can be read. `cursor`: where to go on,
    None at the end."""

    checked: Uint
    bad: Annotated[tuple[Bin32, ...], Size(MAX_VERIFY)] = ()
    cursor: Bin32 | None = None


class StoreImportRequest(Body):
    """Archive messages, whatever their age: two blobs each, as in a reply of `store.query`."""


class StoreRefusal(Body):
    """A message that was not archived: its place in the request, and why."""

    number: Uint
    reason: str


class StoreImportReply(Body):
    """Sent when they are on disk. `known`: they were there already."""

    stored: Uint
    known: Uint
    refused: Annotated[tuple[StoreRefusal, ...], Size(MAX_IMPORT)] = ()


METHODS: Final[dict[str, Method]] = {
    STORE_STATUS: Method(Empty, StoreStatusReply),
    STORE_SYNC: Method(StoreSyncRequest, StoreSessionRecord),
    STORE_VERIFY: Method(StoreVerifyRequest, StoreVerifyReply),
    STORE_IMPORT: Method(StoreImportRequest, StoreImportReply),
}
