"""Values stored in the database.

Times are nanoseconds since 1970 by this host's clock; ids of streams, instances, requests and hashes are
bytes, as on the wire (`ipc_schema/SPEC.md`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

Row = tuple[Any, ...]


class DamagedError(ValueError):
    """The file holds something that no version of this program writes."""


def check_row(row: Row, *types: type) -> Row:
    """Return the row, whose values must be of these types. Raises DamagedError.

    SQLite stores any type in any column (type affinity), so damage can change them.
    """
    if tuple(map(type, row)) != types:
        raise DamagedError(f"a row of the wrong types: {[type(value).__name__ for value in row]}")
    return row


class AppRecord(NamedTuple):
    """A named app. `uid` is the one that first used the name.

    Everything up to `acked` is acknowledged. Above it, everything up to `dropped` was removed by the stream's
    bounds, for `drop_reason`.
    """

    app_id: int
    name: str
    uid: int
    stream_id: bytes
    created: int
    last_seen: int
    acked: int = 0
    dropped: int = 0
    dropped_at: int = 0
    drop_reason: str = ""


class JournalEntry(NamedTuple):
    """One event of an app's stream, as its two frames: header and payload.

    Without a header it stands for all events that should be there, up to `seq`, and cannot be read.
    """

    seq: int
    header: bytes
    payload: bytes


class DamagedRowError(DamagedError):
    """A row of the journal cannot be read. `page` holds what was read before it, and an entry without a
    header in its place."""

    def __init__(self, last: int, why: str) -> None:
        super().__init__(f"the events up to {last} cannot be read: {why}")
        self.last = last
        self.page: list[JournalEntry] = []


class JournalExtent(NamedTuple):
    """A run of consecutive events of one app, so that a stream can enforce its bounds without reading
    them."""

    last: int
    cost: int
    newest: int


class KernelPosition(NamedTuple):
    """How far a kernel stream (`m/<cluster>/<shard>`) has been processed.

    Nothing before `good_moment` can be missing any more (0: unknown). Policy moves it; the last value wins.
    """

    stream: str
    instance: bytes
    epoch: bytes
    seq: int
    good_moment: int = 0


class RememberedHashes(NamedTuple):
    """Message hashes of one shard that were seen at `time`, 32 bytes each, concatenated."""

    shard: int
    time: int
    hashes: bytes


class OutboxState(IntEnum):
    """Stored state of a send. The send service owns the transitions."""

    PARKED = 0
    ATTEMPTED = 1
    PROPAGATED = 2
    # Final from here on: the row stays as the memory of its request id, without the payload.
    SENT = 10
    FAILED = 11
    UNCONFIRMED = 12
    CANCELLED = 13

    @property
    def final(self) -> bool:
        """Return True if no further transition follows."""
        return self >= OutboxState.SENT


class OutboxEntry(NamedTuple):
    """One accepted send.

    `scope` is the app's stream id: request ids are unique within it. `fingerprint` hashes the whole request
    body, to distinguish a repeat from a conflict. `timestamp` and `message_hash` are fixed by the first
    attempt and are on disk before it is made. `first_attempt` is its label of the `WindowClock`; `elapsed` is
    of earlier versions.
    """

    entry_id: int
    scope: bytes
    request_id: bytes
    fingerprint: bytes
    content_topic: str
    payload: bytes
    meta: bytes
    ephemeral: bool
    accepted: int
    state: OutboxState = OutboxState.PARKED
    attempts: int = 0
    timestamp: int = 0
    message_hash: bytes = b""
    first_attempt: int = 0
    propagated: int = 0
    elapsed: int = 0
    finished: int = 0
    detail: str = ""


class WantedHistory(NamedTuple):
    """History that an app asked for and has not received yet (times in ns)."""

    app_id: int
    topic: str
    start: int
    end: int


@dataclass(slots=True)
class Snapshot:
    """All state that is held in memory while running, as it was on disk at the start.

    Subscriptions and extents have an entry for every app, possibly empty. `outbox` holds the sends that are
    not final, oldest first. `next_*` are ids that were never used.
    """

    database_id: bytes
    apps: list[AppRecord]
    subscriptions: dict[int, list[str]]
    extents: dict[int, list[JournalExtent]]
    positions: dict[str, KernelPosition]
    hashes: list[RememberedHashes]
    outbox: list[OutboxEntry]
    next_app_id: int
    next_entry_id: int
    notes: dict[str, bytes] = field(default_factory=dict)
    left: dict[tuple[int, str], int] = field(default_factory=dict)
    """When an app (id) left a topic, ns."""
    history: list[WantedHistory] = field(default_factory=list)
    delivered: list[tuple[int, int]] = field(default_factory=list)
    """Number of delivered hashes on disk by time (ns), in slices, oldest first."""
