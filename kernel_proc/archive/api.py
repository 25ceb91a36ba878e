"""What the rest of the kernel sees of the archive: its types, its errors, and `Archive` itself.

Rules of 13/WAKU2-STORE, and nwaku's where they differ: pages are ordered by (timestamp, hash bytes), both
ends of a time window are inclusive, a cursor is the hash of a message and exclusive, all filters given are
ANDed, and the messages of a page ascend whatever the direction of paging.

```
ArchiveError
├── BadQuery             the query cannot be asked: a bound exceeded, a hash that is not 32 bytes
├── CursorNotFound       the cursor names no message of the archive (never there, or removed by retention)
├── ArchiveBusy          too many queries wait already (retriable)
├── ArchiveUnavailable   the database does not answer, or not in time (retriable)
└── ArchiveConfigError   the database's driver is not installed
```
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

import trio

from ipc_schema.message import WakuMessage, decode_message
from kernel_proc.metrics import Sample

__all__ = [
    "DEFAULT_PAGE",
    "MAX_CONTENT_TOPICS",
    "MAX_HASHES",
    "MAX_PAGE",
    "MAX_TIMESTAMP_DISTANCE_NS",
    "Archive",
    "ArchiveBusy",
    "ArchiveConfigError",
    "ArchiveError",
    "ArchiveState",
    "ArchiveUnavailable",
    "ArchivedMessage",
    "BadQuery",
    "CursorNotFound",
    "HistoryPage",
    "HistoryQuery",
]

DEFAULT_PAGE: Final = 20
MAX_PAGE: Final = 100
MAX_HASHES: Final = 1000
"""Hashes in one query. nwaku has no bound here; a page holds 100 of the answers at most."""
MAX_CONTENT_TOPICS: Final = 100
"""Content topics in one query. nwaku's own bound (10) belongs to the protocol, not to the database."""
MAX_TIMESTAMP_DISTANCE_NS: Final = 20_000_000_000
"""A message is stored when its timestamp is at most this far from now (13/WAKU2-STORE)."""

_HASH_SIZE: Final = 32
_INT64: Final = 1 << 63


class ArchiveError(Exception):
    """Root of what the archive raises. `retriable`: the same call may succeed later."""

    retriable = False


class BadQuery(ArchiveError, ValueError):
    """The query cannot be asked."""


class CursorNotFound(ArchiveError):
    """The cursor names no message of the archive."""


class ArchiveBusy(ArchiveError):
    """As many queries as may wait are waiting."""

    retriable = True


class ArchiveUnavailable(ArchiveError):
    """The database cannot be read now, or did not answer in time."""

    retriable = True


class ArchiveConfigError(ArchiveError, ValueError):
    """The archive cannot run as configured: the driver of its database is not installed."""


class ArchiveState(StrEnum):
    """What health is made of."""

    OPENING = "opening"
    """Not open yet, and no attempt has failed. Offers wait, queries are `ArchiveUnavailable`."""
    READY = "ready"
    STALLED = "stalled"
    """The database cannot be opened or written; `reason` says why. Offers wait within the queue's bounds and
    are stored when it works again. Queries may still be answered (a full disk can be read)."""
    CLOSED = "closed"


class ArchivedMessage(NamedTuple):
    """One message of a page. Without data (`include_data` false) only the hash is there."""

    message_hash: bytes
    pubsub_topic: str | None = None
    data: bytes | None = None
    """The WakuMessage encoded as nwaku writes it, all its fields kept (proof too), ready for the wire."""

    @property
    def message(self) -> WakuMessage | None:
        """`data` decoded, anew at each access."""
        return None if self.data is None else decode_message(self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryQuery:
    """What is asked; everything that is given must hold for a message. Raises `BadQuery` when made.

    `start` and `end` are nanoseconds since 1970, inclusive. `content_topics` and `hashes` are alternatives
    within themselves and no filter when empty. `cursor` is the hash that the last page named.
    """

    pubsub_topic: str | None = None
    content_topics: tuple[str, ...] = ()
    start: int | None = None
    end: int | None = None
    hashes: tuple[bytes, ...] = ()
    cursor: bytes | None = None
    forward: bool = False
    """False is nwaku's default: the newest page first."""
    limit: int = DEFAULT_PAGE
    include_data: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_PAGE:
            raise BadQuery(f"page size {self.limit}: 1 to {MAX_PAGE} are allowed")
        if len(self.content_topics) > MAX_CONTENT_TOPICS:
            raise BadQuery(f"{len(self.content_topics)} content topics: at most {MAX_CONTENT_TOPICS} allowed")
        if len(self.hashes) > MAX_HASHES:
            raise BadQuery(f"{len(self.hashes)} message hashes: at most {MAX_HASHES} are allowed")
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

    `cursor` is None when nothing more matches; otherwise the hash to give for the next page: the last one
    forward, the first (oldest) one backward.
    """

    messages: tuple[ArchivedMessage, ...]
    cursor: bytes | None


class Archive(Protocol):
    """The message archive of one node. All methods belong to the trio thread."""

    @property
    def state(self) -> ArchiveState: ...

    @property
    def reason(self) -> str:
        """Why the state is STALLED, for an operator; empty otherwise. Names no password."""
        ...

    def offer(self, pubsub_topic: str, message: WakuMessage, message_hash: bytes, received_ns: int) -> bool:
        """Give a valid message to the archive; never blocks and never raises.

        `received_ns` is the wall clock, ns since 1970. True: it waits to be stored (one already there is
        then ignored). False: an ephemeral one, a timestamp more than 20 s away, or no room in the queue;
        counted by reason.
        """
        ...

    async def query(self, query: HistoryQuery) -> HistoryPage:
        """Read one page. Raises `CursorNotFound`, `ArchiveBusy`, `ArchiveUnavailable`."""
        ...

    async def flush(self) -> None:
        """Wait until everything offered so far is committed (or was refused by the database)."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the database, store what is offered, keep to the retention policy; until cancelled.

        Never ends because of the database. Has started at once, whether the database answers or not. When
        cancelled it stores what waits, for at most two seconds.
        """
        ...

    def counters(self) -> dict[str, int]:
        """Monotonic numbers by name; see `MessageArchive.counters`."""
        ...

    def samples(self) -> Iterable[Sample]:
        """For the metrics registry, under nwaku's names."""
        ...
