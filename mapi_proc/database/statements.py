"""Turn a batch into SQL. Runs on the writer thread, inside a transaction that the writer opens and closes.

Each sqlite3 step releases the GIL and must win it back from a busy event loop, which can take a whole switch
interval (`sys.setswitchinterval`, 5 ms). So many rows go into one statement: `INSERT … VALUES (…), (…), …` in
chunks of powers of two.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

from mapi_proc.database.batch import Batch
from mapi_proc.database.channels import execute_channels, forget_channels_of
from mapi_proc.database.identity import FORGET_EVENTS, renew_stream
from mapi_proc.database.journal import SEQ_BITS
from mapi_proc.database.records import OutboxEntry

_CHUNKS: Final = (64, 16, 4, 1)
_Statement = Callable[[sqlite3.Connection, Sequence[Sequence[Any]]], object]


class _Chunked:
    """A statement on any number of rows, in few executions. `text(n)` is that on n rows."""

    def __init__(self, text: Callable[[int], str]) -> None:
        self._texts = [(size, text(size)) for size in _CHUNKS]

    def __call__(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> None:
        position, total = 0, len(rows)
        for size, text in self._texts:
            while total - position >= size:
                end = position + size
                connection.execute(text, tuple(chain.from_iterable(rows[position:end])))
                position = end


def _insert(head: str, columns: int, tail: str = "") -> _Chunked:
    row = f"({', '.join('?' * columns)})"
    return _Chunked(lambda size: f"{head} VALUES {', '.join([row] * size)} {tail}")


def _by_id(head: str) -> _Chunked:
    return _Chunked(lambda size: f"{head} IN ({', '.join('?' * size)})")


def _each(text: str) -> _Statement:
    return lambda connection, rows: connection.executemany(text, rows)


_app_create = _insert("INSERT INTO app", 10)
_payload_add = _insert("INSERT INTO payload", 2)
_journal_add = _insert("INSERT INTO journal", 7)
_hashes_add = _insert("INSERT INTO seen (shard, time, hashes)", 3)
_delivered_add = _insert("INSERT INTO delivered (app, time, hashes)", 3)
# A repeated request id is normal input: it must not cost the others their commit.
_outbox_add = _insert("INSERT INTO outbox", 18, "ON CONFLICT (scope, request_id) DO NOTHING")
_outbox_propagated = _by_id("UPDATE outbox SET state = 2, propagated = 1 WHERE state < 10 AND id")
_position_set = _insert(
    "INSERT INTO kernel_position",
    5,
    "ON CONFLICT (stream) DO UPDATE SET instance = excluded.instance, epoch = excluded.epoch,"
    " seq = excluded.seq, good_moment = excluded.good_moment",
)

# A shared payload goes with the last journal row that refers to it.
_RELEASE_PAYLOADS: Final = """
DELETE FROM payload
WHERE id IN (SELECT payload_id FROM journal WHERE key > :above AND key <= :last AND payload_id IS NOT NULL)
  AND NOT EXISTS (SELECT 1 FROM journal AS other
                  WHERE other.payload_id = payload.id AND NOT (other.key > :above AND other.key <= :last))
"""
_RELEASE_JOURNAL: Final = "DELETE FROM journal WHERE key > :above AND key <= :last"

_OTHERS: Final[dict[str, _Statement]] = {
    "app_seen": _each("UPDATE app SET last_seen = max(last_seen, ?) WHERE id = ?"),
    "unsubscribe": _each("DELETE FROM subscription WHERE app = ? AND topic = ?"),
    "subscribe": _insert("INSERT OR IGNORE INTO subscription", 2),
    "clamp_hashes": _each("UPDATE seen SET time = ? WHERE shard = ? AND time > ?"),
    "evict_hashes": _each("DELETE FROM seen WHERE shard = ? AND time < ?"),
    "evict_delivered": _each("DELETE FROM delivered WHERE time < ?"),
    "left": _insert("INSERT OR REPLACE INTO left_topic", 3),
    "want_history": _insert(
        "INSERT INTO wanted_history",
        4,
        "ON CONFLICT (app, topic) DO UPDATE SET"
        " start = min(start, excluded.start), end = max(end, excluded.end)",
    ),
    "end_history": _each("DELETE FROM wanted_history WHERE app = ? AND topic = ?"),
    # The newest row stays: the highest id must not fall (`identity.Counts`).
    "evict_requests": _each(
        "DELETE FROM outbox WHERE state >= 10 AND accepted < ? AND id < (SELECT max(id) FROM outbox)"
    ),
    "note": _insert("INSERT INTO meta", 2, "ON CONFLICT (key) DO UPDATE SET value = excluded.value"),
}
"""What `Batch.rows` holds, in the order of execution."""


def execute_batch(connection: sqlite3.Connection, batch: Batch) -> None:
    """Apply one batch. Raises any SQLite error; the caller rolls back."""
    if batch.apps_forgotten:
        # The journal is purged later in pieces: deleting a full one at once would stall every other commit.
        connection.executemany(FORGET_EVENTS, batch.apps_forgotten)
        connection.executemany("DELETE FROM app WHERE id = ?", batch.apps_forgotten)
        for table in ("subscription", "delivered", "left_topic", "wanted_history"):
            connection.executemany(f"DELETE FROM {table} WHERE app = ?", batch.apps_forgotten)  # noqa: S608
        forget_channels_of(connection, batch.apps_forgotten)
    if batch.apps_created:
        _app_create(connection, batch.apps_created)
    for app_id, old, new in batch.streams_renewed:
        renew_stream(connection, app_id, old, new)
    if batch.payloads:
        _payload_add(connection, batch.payloads)
    if batch.journal_rows:
        _journal_add(connection, [row.columns() for row in batch.journal_rows])
    for app_id, seq in batch.acks.items():
        connection.execute("UPDATE app SET acked = max(acked, ?) WHERE id = ?", (seq, app_id))
        release_journal(connection, app_id, seq)
    for app_id, (seq, time, reason) in batch.drops.items():
        connection.execute(
            "UPDATE app SET dropped = ?, dropped_at = ?, drop_reason = ? WHERE id = ? AND dropped < ?",
            (seq, time, reason, app_id, seq),
        )
        release_journal(connection, app_id, seq)
    if batch.positions:
        _position_set(connection, list(batch.positions.values()))
    if batch.hashes_added:
        _hashes_add(connection, batch.hashes_added)
    if batch.delivered_added:
        _delivered_add(connection, batch.delivered_added)
    _execute_outbox(connection, batch)
    if batch.channels:
        execute_channels(connection, batch.channels)
    if batch.rows:
        for name, statement in _OTHERS.items():
            if rows := batch.rows.get(name):
                statement(connection, rows)


def release_journal(connection: sqlite3.Connection, app_id: int, seq: int) -> None:
    """Remove an app's events up to `seq`, and shared payloads that no other event refers to."""
    bounds = {"above": app_id << SEQ_BITS, "last": app_id << SEQ_BITS | seq}
    connection.execute(_RELEASE_PAYLOADS, bounds)
    connection.execute(_RELEASE_JOURNAL, bounds)


def _execute_outbox(connection: sqlite3.Connection, batch: Batch) -> None:
    if batch.outbox_added:
        before = connection.total_changes
        _outbox_add(connection, batch.outbox_added)
        complete = connection.total_changes - before == len(batch.outbox_added)
        batch.refused_sends = frozenset() if complete else _left_out(connection, batch.outbox_added)
    if batch.outbox_changed:
        connection.executemany(
            "UPDATE outbox SET state = ?, attempts = ?, timestamp = ?, message_hash = ?, first_attempt = ?,"
            " propagated = ? WHERE id = ? AND state < 10",
            batch.outbox_changed,
        )
    if batch.outbox_propagated:
        _outbox_propagated(connection, batch.outbox_propagated)
    if batch.outbox_finished:
        connection.executemany(
            "UPDATE outbox SET state = ?, finished = ?, detail = ?, attempts = max(attempts, ?),"
            " payload = x'' WHERE id = ? AND state < 10",
            batch.outbox_finished,
        )


def _left_out(connection: sqlite3.Connection, entries: Sequence[OutboxEntry]) -> frozenset[int]:
    """Return the ids of entries that have no row."""
    find = "SELECT 1 FROM outbox WHERE id = ?"
    missing = (one for one in entries if connection.execute(find, (one.entry_id,)).fetchone() is None)
    return frozenset(one.entry_id for one in missing)
