"""Reads, on their own connection and thread: a long read blocks neither the writer nor the event loop."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from mapi_proc.database.batch import NOTE_PREFIX
from mapi_proc.database.journal import COLUMNS, SEQ_BITS, SEQ_MASK, cost_up_to, events_of
from mapi_proc.database.records import (
    AppRecord,
    DamagedError,
    DamagedRowError,
    JournalEntry,
    JournalExtent,
    KernelPosition,
    OutboxEntry,
    OutboxState,
    RememberedHashes,
    Row,
    Snapshot,
    WantedHistory,
    check_row,
)

DELIVERED_SLICE_NS = 600 * 1_000_000_000
_APP_TYPES = (int, str, int, bytes, int, int, int, int, int, str)
_OUTBOX_TYPES = (
    *(int, bytes, bytes, bytes, str, bytes, bytes, int, int, int, int),
    *(int, bytes, int, int, int, int, str),
)
_OUTBOX_COLUMNS = (
    "id, scope, request_id, fingerprint, content_topic, payload, meta, ephemeral, accepted, state, attempts,"
    " timestamp, message_hash, first_attempt, propagated, elapsed, finished, detail"
)


def read_page(
    connection: sqlite3.Connection, app_id: int, after: int, up_to: int, max_bytes: int, max_events: int
) -> list[JournalEntry]:
    """Read an app's events in order, `after` < seq ≤ `up_to`: at most `max_bytes`, but at least one if any
    exists. Raises `DamagedRowError`.
    """
    base = app_id << SEQ_BITS
    rows = connection.execute(
        f"SELECT journal.key, {', '.join(COLUMNS)}"  # noqa: S608 (our own columns)
        " FROM journal LEFT JOIN payload ON payload.id = payload_id"
        " WHERE key > ? AND key <= ? ORDER BY key",
        (base | after, base | SEQ_MASK),
    )
    page: list[JournalEntry] = []
    size = 0
    try:
        for event in _events(rows, after):
            if event.seq > up_to:
                break
            page.append(event)
            size += len(event.header) + len(event.payload)
            if size >= max_bytes or len(page) >= max_events or event.seq >= up_to:
                break
    except DamagedRowError as error:
        error.page = [*page, JournalEntry(min(error.last, up_to), b"", b"")]
        raise
    finally:
        rows.close()  # an unfinished read would pin the write-ahead log
    return page


def _events(rows: Iterable[Row], after: int) -> Iterator[JournalEntry]:
    for key, header, payload, sizes in rows:
        yield from events_of(key & SEQ_MASK, header, payload, sizes, after)


def find_request(connection: sqlite3.Connection, scope: bytes, request_id: bytes) -> OutboxEntry | None:
    """Look up a send by its request id, finished or not (a finished one has no payload)."""
    row = connection.execute(
        f"SELECT {_OUTBOX_COLUMNS} FROM outbox WHERE scope = ? AND request_id = ?",  # noqa: S608 (our own columns)
        (scope, request_id),
    ).fetchone()
    return None if row is None else _outbox_entry(row)


def pending_sends(connection: sqlite3.Connection) -> list[OutboxEntry]:
    """Read the outbox entries that are not final, oldest first."""
    # Our own columns, no input:
    query = f"SELECT {_OUTBOX_COLUMNS} FROM outbox WHERE state < 10 ORDER BY id"  # noqa: S608
    rows = connection.execute(query)
    return [_outbox_entry(row) for row in rows]


def _outbox_entry(row: Row) -> OutboxEntry:
    entry = OutboxEntry._make(check_row(row, *_OUTBOX_TYPES))
    return entry._replace(ephemeral=bool(entry.ephemeral), state=OutboxState(entry.state))


def _app(row: Row) -> AppRecord:
    app = AppRecord._make(check_row(row, *_APP_TYPES))
    if len(app.stream_id) != 16 or app.app_id < 1 or not 0 <= max(app.acked, app.dropped) <= SEQ_MASK:
        raise DamagedError(f"app {app.app_id}: impossible values")
    return app


def find_delivered(connection: sqlite3.Connection, app_id: int, since: int) -> set[bytes]:
    """Return the hashes of all messages delivered to an app since then, as far as they are remembered."""
    found: set[bytes] = set()
    rows = connection.execute("SELECT hashes FROM delivered WHERE app = ? AND time >= ?", (app_id, since))
    for (hashes,) in rows:
        found.update(hashes[start : start + 32] for start in range(0, len(hashes), 32))
    return found


def orphaned_apps(connection: sqlite3.Connection) -> list[int]:
    """Find the ids of forgotten apps whose events are still there (the process died while removing them)."""
    known = {app_id for (app_id,) in connection.execute("SELECT id FROM app")}
    orphans: list[int] = []
    key = 0
    while True:  # one index probe per app
        row = connection.execute(
            "SELECT key FROM journal WHERE key > ? ORDER BY key LIMIT 1", (key,)
        ).fetchone()
        if row is None:
            return orphans
        app_id = row[0] >> SEQ_BITS
        if app_id not in known:
            orphans.append(app_id)
        key = (app_id + 1) << SEQ_BITS


def _cost_over(connection: sqlite3.Connection, app: AppRecord) -> int:
    """Return the bytes that an app's oldest row holds of events that are acknowledged or dropped."""
    base, over = app.app_id << SEQ_BITS, max(app.acked, app.dropped)
    row = connection.execute(
        "SELECT key, cost, CAST(sizes AS BLOB) FROM journal WHERE key > ? AND key <= ? ORDER BY key LIMIT 1",
        (base | over, base | SEQ_MASK),
    ).fetchone()
    if row is None or row[2] is None:
        return 0
    key, cost, sizes = row
    try:
        return cost_up_to(over, key & SEQ_MASK, cost, sizes)
    except DamagedRowError:
        return 0  # one row is no reason to give up all; its app is told when it comes to it


def load_snapshot(connection: sqlite3.Connection, database_id: bytes) -> Snapshot:
    """Read all state that is kept in memory, in one consistent view."""
    connection.execute("BEGIN")
    try:
        return _load(connection, database_id)
    finally:
        connection.execute("COMMIT")


def _load(connection: sqlite3.Connection, database_id: bytes) -> Snapshot:
    def rows(types: Sequence[type], query: str, *parameters: object) -> list[Any]:
        return [check_row(row, *types) for row in connection.execute(query, parameters)]

    apps = [_app(row) for row in connection.execute("SELECT * FROM app ORDER BY id")]
    subscriptions: dict[int, list[str]] = {app.app_id: [] for app in apps}
    for app_id, topic in rows((int, str), "SELECT app, topic FROM subscription ORDER BY app, topic"):
        subscriptions.setdefault(app_id, []).append(topic)
    # Sixteen events an extent, or a row of more: fine enough for the bounds, a sixteenth of the rows.
    runs = rows(
        (int, int, int),
        "SELECT max(key), sum(cost), max(time) FROM journal GROUP BY key >> 4 ORDER BY max(key)",
    )
    extents: dict[int, list[JournalExtent]] = {app.app_id: [] for app in apps}
    for app_id, of_app in groupby(runs, key=lambda row: int(row[0]) >> SEQ_BITS):
        extents[app_id] = [JournalExtent(last & SEQ_MASK, cost, newest) for last, cost, newest in of_app]
    for app in apps:
        if extents[app.app_id]:
            first = extents[app.app_id][0]
            over = _cost_over(connection, app)
            extents[app.app_id][0] = first._replace(cost=first.cost - over)
    positions = rows(
        (str, bytes, bytes, int, int), "SELECT stream, instance, epoch, seq, good_moment FROM kernel_position"
    )
    hashes = rows((int, int, bytes), "SELECT shard, time, hashes FROM seen ORDER BY id")
    (last_entry,) = connection.execute("SELECT ifnull(max(id), 0) FROM outbox").fetchone()
    notes = rows((str, bytes), "SELECT key, value FROM meta WHERE key >= ? AND key < ?", NOTE_PREFIX, "note;")
    left = rows((int, str, int), "SELECT app, topic, time FROM left_topic")
    history = rows((int, str, int, int), "SELECT app, topic, start, end FROM wanted_history")
    return Snapshot(
        database_id=database_id,
        apps=apps,
        subscriptions=subscriptions,
        extents=extents,
        positions={row[0]: KernelPosition._make(row) for row in positions},
        hashes=[RememberedHashes._make(row) for row in hashes],
        outbox=pending_sends(connection),
        next_app_id=max([app.app_id for app in apps] + list(extents), default=0) + 1,
        next_entry_id=last_entry + 1,
        notes={key.removeprefix(NOTE_PREFIX): value for key, value in notes},
        left={(app, topic): time for app, topic, time in left},
        history=[WantedHistory._make(row) for row in history],
        delivered=rows(
            (int, int),
            "SELECT min(time), sum(length(hashes)) / 32 FROM delivered GROUP BY time / ? ORDER BY 1",
            DELIVERED_SLICE_NS,
        ),
    )
