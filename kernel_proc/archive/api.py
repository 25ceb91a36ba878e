"""What the archive takes and returns: queries, pages and errors.

The rules are those of 13/WAKU2-STORE, or of nwaku where the two differ: pages are ordered by (timestamp,
hash bytes), both ends of a time window are inclusive, a cursor is the hash of a message and exclusive, all
filters given are ANDed, and the messages of a page ascend whatever the direction of paging.

```
ArchiveError
├── BadQuery             invalid query: a limit exceeded, a hash that is not 32 bytes
├── CursorNotFound       the cursor's message is not in the archive (never was, or removed by retention)
├── ArchiveBusy          too many queries are waiting (retriable)
├── ArchiveUnavailable   the database does not respond, or not in time (retriable)
└── ArchiveConfigError   the database's driver is not installed
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from ipc_schema.message import WakuMessage, decode_message

DEFAULT_PAGE: Final = 20
MAX_PAGE: Final = 100
MAX_HASHES: Final = 1000
"""Maximum hashes per query. nwaku has no limit here; a page returns at most 100 of them."""
MAX_CONTENT_TOPICS: Final = 100
"""Maximum content topics per query. nwaku's limit (10) belongs to the protocol, not to the database."""
MAX_TIMESTAMP_DISTANCE_NS: Final = 20_000_000_000
"""Maximum distance of a stored message's timestamp from now (13/WAKU2-STORE)."""

_HASH_SIZE: Final = 32
_INT64: Final = 1 << 63


class ArchiveError(Exception):
    """Root of the archive's errors. `retriable`: the same call may succeed later."""

    retriable = False


class BadQuery(ArchiveError, ValueError):
    """The query is invalid."""


class CursorNotFound(ArchiveError):
    """The cursor's message is not in the archive."""


class ArchiveBusy(ArchiveError):
    """The maximum number of queries is already waiting."""

    retriable = True


class ArchiveUnavailable(ArchiveError):
    """The database cannot be read now, or did not respond in time."""

    retriable = True


class ArchiveConfigError(ArchiveError, ValueError):
    """The archive cannot run as configured: the driver of its database is not installed."""


class ArchiveState(StrEnum):
    """The state of the archive, for health."""

    OPENING = "opening"
    """Not open yet, and no attempt has failed. Offers wait, queries raise `ArchiveUnavailable`."""
    READY = "ready"
    STALLED = "stalled"
    """The database cannot be opened or written; `reason` says why. Offers wait within the queue's limits
    or on disk, and are stored when it recovers. Queries may still work (a full disk can be read)."""
    CLOSED = "closed"


class Backlog(NamedTuple):
    """Messages that were accepted and are not in the database yet."""

    messages: int = 0
    on_disk: int = 0
    """Those of them that wait in the spool, and would survive a restart."""
    disk_bytes: int = 0
    away_seconds: float = 0.0
    """How long the database has been away."""
    replica_lag: float | None = None
    """How many seconds the replica that is read from is behind; None: there is none, or it does not
    answer."""
    damaged: tuple[str, ...] = ()
    """Spool files that could not be read and were set aside, for the operator."""


class ArchivedMessage(NamedTuple):
    """A message of a page. With `include_data` false, only the hash is set."""

    message_hash: bytes
    pubsub_topic: str | None = None
    data: bytes | None = None
    """The WakuMessage in nwaku's encoding, with all fields (also the proof), ready to send."""

    @property
    def message(self) -> WakuMessage | None:
        """`data`, decoded on each access."""
        return None if self.data is None else decode_message(self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryQuery:
    """A query; a message must match all filters given. Raise `BadQuery` on construction.

    `start` and `end` are nanoseconds since the Unix epoch, inclusive. `content_topics` and `hashes` each
    match any of their elements; empty means no filter. `cursor` is the hash returned with the previous page.
    """

    pubsub_topic: str | None = None
    content_topics: tuple[str, ...] = ()
    start: int | None = None
    end: int | None = None
    hashes: tuple[bytes, ...] = ()
    cursor: bytes | None = None
    forward: bool = False
    """False, nwaku's default: the newest page first."""
    limit: int = DEFAULT_PAGE
    include_data: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_PAGE:
            raise BadQuery(f"page size {self.limit} is not in 1..{MAX_PAGE}")
        if len(self.content_topics) > MAX_CONTENT_TOPICS:
            raise BadQuery(f"{len(self.content_topics)} content topics, the maximum is {MAX_CONTENT_TOPICS}")
        if len(self.hashes) > MAX_HASHES:
            raise BadQuery(f"{len(self.hashes)} message hashes, the maximum is {MAX_HASHES}")
        for name, digest in [("message hash", h) for h in self.hashes] + [("cursor", self.cursor)]:
            if digest is not None and len(digest) != _HASH_SIZE:
                raise BadQuery(f"a {name} has {_HASH_SIZE} bytes, not {len(digest)}")
        for time in (self.start, self.end):
            if time is not None and not -_INT64 <= time < _INT64:
                raise BadQuery(f"time {time} does not fit in int64")
        try:
            for topic in (self.pubsub_topic or "", *self.content_topics):
                topic.encode()
        except UnicodeEncodeError as error:
            raise BadQuery(f"a topic is not valid Unicode: {error.reason}") from error


class HistoryPage(NamedTuple):
    """Messages in ascending order of (timestamp, hash), also when paging backward.

    `cursor` is None if nothing more matches; otherwise the hash for the next page: the last one when paging
    forward, the first (oldest) one backward.
    """

    messages: tuple[ArchivedMessage, ...]
    cursor: bytes | None


class KeyQuery(NamedTuple):
    """The keys (timestamp, hash) of a pubsub topic, without data: any number of them at once.

    Both bounds are exclusive; b"" sorts before any hash, so (t, b"") is a bound just before time t.
    """

    pubsub_topic: str
    low: tuple[int, bytes]
    high: tuple[int, bytes]
    limit: int
    forward: bool = True
    content_topics: tuple[str, ...] = ()
    """Any of these; empty: all."""


class TopicSpan(NamedTuple):
    """What the archive has of a pubsub topic. Times are the messages' own, in ns."""

    pubsub_topic: str
    messages: int
    oldest: int
    newest: int


StoredMessages = Callable[[Sequence[tuple[str, int, bytes]]], None]
"""Called with what was committed: pubsub topic, timestamp, hash; also with what had been there before."""
