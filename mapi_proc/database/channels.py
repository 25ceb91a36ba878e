"""The tables of reliable channels: what is written with a batch, and what is read.

Values are plain here: `mapi_proc.channels.storing` converts them from and to a channel's changes. A
transaction without channels pays nothing for these tables.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mapi_proc.database.records import Row, check_row

CHANNEL_TABLES: Final = """
-- `settings` and `state` are MessagePack; `secret` holds keys if the app wants them kept, else nothing.
CREATE TABLE channel (
    id            INTEGER PRIMARY KEY,
    app           INTEGER NOT NULL,
    name          TEXT    NOT NULL,
    content_topic TEXT    NOT NULL,
    sender_id     TEXT    NOT NULL,
    settings      BLOB    NOT NULL,
    secret        BLOB    NOT NULL,
    open          INTEGER NOT NULL,
    state         BLOB    NOT NULL,
    UNIQUE (app, name)
);

-- The messages of a channel. `raw` goes when a message is too old for repair; its id stays for longer.
CREATE TABLE channel_message (
    id         INTEGER PRIMARY KEY,
    channel    INTEGER NOT NULL,
    message_id TEXT    NOT NULL,
    time       INTEGER NOT NULL,
    sender_id  TEXT    NOT NULL,
    hint       BLOB    NOT NULL,
    state      INTEGER NOT NULL,
    raw        BLOB,
    UNIQUE (channel, message_id)
);

-- A send that has ended (at that time, ns) stays as the memory of its request id, without its segments.
CREATE TABLE channel_request (
    channel    INTEGER NOT NULL,
    request_id BLOB    NOT NULL,
    segments   BLOB    NOT NULL,
    needed     INTEGER NOT NULL,
    ephemeral  INTEGER NOT NULL,
    sent       INTEGER NOT NULL,
    fingerprint BLOB   NOT NULL,
    ended      INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (channel, request_id)
) WITHOUT ROWID;

-- Segments still to come of payloads that are joined already.
CREATE TABLE channel_leftover (
    channel      INTEGER NOT NULL,
    sender_id    TEXT    NOT NULL,
    payload_hash BLOB    NOT NULL,
    length       INTEGER NOT NULL,
    slots        BLOB    NOT NULL,
    PRIMARY KEY (channel, sender_id, payload_hash, length)
) WITHOUT ROWID;
"""

_HELD_STATES: Final = "(1, 4)"
"""HELD and OPENED of `mapi_proc.channels.sds.state.SdsState`: such a message keeps its bytes until its
payload is joined."""
_ROW: Final = 96
_CHANNEL_TYPES: Final = (int, int, str, str, str, bytes, bytes, int, bytes)
_NONE: Final = type(None)


class ChannelRecord(NamedTuple):
    """A channel of an app. `state` is what `ChannelRows.state` stored last."""

    channel: int
    app_id: int
    name: str
    content_topic: str
    sender_id: str
    settings: bytes
    secret: bytes = b""
    open: int = 1
    state: bytes = b""

    def __repr__(self) -> str:
        return f"ChannelRecord(channel={self.channel}, app_id={self.app_id}, name={self.name!r})"


@dataclass(slots=True)
class ChannelRows:
    """What one input changes in one channel. Lists of rows, without the channel's number."""

    channel: int
    created: ChannelRecord | None = None
    opened: tuple[int, bytes] | None = None
    """(open, secret)."""
    forgotten: bool = False
    messages: list[Row] = field(default_factory=list)
    """(message_id, time, sender_id, hint, state, raw): added, or replaced."""
    states: list[Row] = field(default_factory=list)
    """(state, message_id)."""
    hints: list[Row] = field(default_factory=list)
    """(hint, message_id)."""
    stripped: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    state: bytes | None = None
    requests: list[Row] = field(default_factory=list)
    """(request_id, segments, needed, ephemeral, sent, fingerprint): added, or replaced."""
    requests_ended: list[Row] = field(default_factory=list)
    """(time, sent, end, detail, request_id)."""
    requests_forgotten: int = 0
    """Those that ended before this time go."""
    leftovers: list[Row] = field(default_factory=list)
    """(sender_id, payload_hash, length, slots): added, or replaced."""
    leftovers_ended: list[Row] = field(default_factory=list)
    """(sender_id, payload_hash, length)."""

    @property
    def cost(self) -> int:
        """Bytes it occupies in the writer's queue, about."""
        small = len(self.states) + len(self.hints) + len(self.stripped) + len(self.removed)
        small += len(self.requests_ended) + len(self.leftovers) + len(self.leftovers_ended)
        messages = sum(_ROW + len(row[5] or b"") for row in self.messages)
        requests = sum(_ROW + len(row[1]) for row in self.requests)
        return _ROW * (1 + small) + messages + requests + len(self.state or b"")


@dataclass(slots=True)
class ChannelContents:
    """All rows of one channel."""

    messages: list[Row]
    """(message_id, time, sender_id, hint, state, raw). `raw` is empty where it is on disk and not read."""
    requests: list[Row]
    leftovers: list[Row]


def execute_channels(connection: sqlite3.Connection, changes: Sequence[ChannelRows]) -> None:
    """Apply the changes of channels. Inside the writer's transaction."""
    for rows in changes:
        _execute(connection, rows)


def _execute(connection: sqlite3.Connection, rows: ChannelRows) -> None:
    number = rows.channel
    if rows.forgotten:
        _forget(connection, number)
        return
    if rows.created is not None:
        connection.execute("INSERT INTO channel VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows.created)
    if rows.opened is not None:
        connection.execute("UPDATE channel SET open = ?, secret = ? WHERE id = ?", (*rows.opened, number))
    many = connection.executemany
    if rows.messages:
        many(
            "INSERT INTO channel_message (channel, message_id, time, sender_id, hint, state, raw)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (channel, message_id) DO UPDATE SET"
            " time = excluded.time, sender_id = excluded.sender_id, hint = excluded.hint,"
            " state = excluded.state, raw = excluded.raw",
            [(number, *row) for row in rows.messages],
        )
    where = "WHERE channel = ? AND message_id = ?"
    for column, values in (("state", rows.states), ("hint", rows.hints)):
        if values:
            many(
                f"UPDATE channel_message SET {column} = ? {where}",  # noqa: S608 (our own columns)
                [(value, number, name) for value, name in values],
            )
    if rows.stripped:
        many(
            f"UPDATE channel_message SET raw = NULL {where} AND state NOT IN {_HELD_STATES}",  # noqa: S608
            [(number, name) for name in rows.stripped],
        )
    if rows.removed:
        many(f"DELETE FROM channel_message {where}", [(number, name) for name in rows.removed])  # noqa: S608
    if rows.state is not None:
        connection.execute("UPDATE channel SET state = ? WHERE id = ?", (rows.state, number))
    _execute_sends(connection, rows)


def _execute_sends(connection: sqlite3.Connection, rows: ChannelRows) -> None:
    number, many = rows.channel, connection.executemany
    if rows.requests:
        many(
            "INSERT OR REPLACE INTO channel_request VALUES (?, ?, ?, ?, ?, ?, ?, 0, '', '')",
            [(number, *row) for row in rows.requests],
        )
    if rows.requests_ended:
        many(
            "UPDATE channel_request SET segments = x'', ended = ?, sent = ?, end = ?, detail = ?"
            " WHERE channel = ? AND request_id = ?",
            [(*row[:-1], number, row[-1]) for row in rows.requests_ended],
        )
    if rows.requests_forgotten:
        connection.execute(
            "DELETE FROM channel_request WHERE channel = ? AND ended > 0 AND ended < ?",
            (number, rows.requests_forgotten),
        )
    if rows.leftovers:
        many(
            "INSERT OR REPLACE INTO channel_leftover VALUES (?, ?, ?, ?, ?)",
            [(number, *row) for row in rows.leftovers],
        )
    if rows.leftovers_ended:
        many(
            "DELETE FROM channel_leftover WHERE channel = ? AND sender_id = ? AND payload_hash = ?"
            " AND length = ?",
            [(number, *row) for row in rows.leftovers_ended],
        )


def _forget(connection: sqlite3.Connection, number: int) -> None:
    for table in ("channel_message", "channel_request", "channel_leftover"):
        connection.execute(f"DELETE FROM {table} WHERE channel = ?", (number,))  # noqa: S608
    connection.execute("DELETE FROM channel WHERE id = ?", (number,))


def forget_channels_of(connection: sqlite3.Connection, apps: Sequence[Row]) -> None:
    """Remove the channels of forgotten apps."""
    for (app_id,) in apps:
        for (number,) in connection.execute("SELECT id FROM channel WHERE app = ?", (app_id,)).fetchall():
            _forget(connection, number)


# --- reading ------------------------------------------------------------------------------------------------


def load_channels(connection: sqlite3.Connection) -> list[ChannelRecord]:
    """Read all channels, without their contents."""
    rows = connection.execute("SELECT * FROM channel ORDER BY id").fetchall()
    return [ChannelRecord._make(check_row(row, *_CHANNEL_TYPES)) for row in rows]


def load_channel(connection: sqlite3.Connection, number: int) -> ChannelContents:
    """Read one channel's contents. Of the bytes only those of messages that wait for something: the others
    are for repair, and read one by one when asked for."""
    select = connection.execute
    messages = select(
        "SELECT message_id, time, sender_id, hint, state,"
        " CASE WHEN raw IS NULL OR state IN (0, 1, 4) THEN raw ELSE x'' END"
        " FROM channel_message WHERE channel = ?",
        (number,),
    ).fetchall()
    requests = select(
        "SELECT request_id, segments, needed, ephemeral, sent, fingerprint FROM channel_request"
        " WHERE channel = ? AND ended = 0",
        (number,),
    ).fetchall()
    leftovers = select(
        "SELECT sender_id, payload_hash, length, slots FROM channel_leftover WHERE channel = ?", (number,)
    ).fetchall()
    for row in messages:
        check_row(row, str, int, str, bytes, int, bytes if row[5] is not None else _NONE)
    for row in requests:
        check_row(row, bytes, bytes, int, int, int, bytes)
    for row in leftovers:
        check_row(row, str, bytes, int, bytes)
    return ChannelContents(messages, requests, leftovers)


def find_channel_request(connection: sqlite3.Connection, number: int, request_id: bytes) -> bytes | None:
    """Read the fingerprint of a send, ended or not; None: the id was not used, or is forgotten."""
    row = connection.execute(
        "SELECT fingerprint FROM channel_request WHERE channel = ? AND request_id = ?", (number, request_id)
    ).fetchone()
    return row[0] if row is not None and isinstance(row[0], bytes) else None


def find_channel_send(
    connection: sqlite3.Connection, number: int, request_id: bytes
) -> tuple[bool, str, str] | None:
    """Read whether a send was sent, its end and the end's details; None: the id was not used, or it is
    forgotten."""
    row = connection.execute(
        "SELECT sent, end, detail FROM channel_request WHERE channel = ? AND request_id = ?"
        " AND (ended = 0 OR end != '')",  # before version 5 ends were not kept
        (number, request_id),
    ).fetchone()
    if row is None:
        return None
    sent, end, detail = check_row(row, int, str, str)
    return bool(sent), end, detail


def find_channel_message(connection: sqlite3.Connection, number: int, message_id: str) -> bytes | None:
    """Read the bytes of one message, None when they are gone."""
    row = connection.execute(
        "SELECT raw FROM channel_message WHERE channel = ? AND message_id = ?", (number, message_id)
    ).fetchone()
    return row[0] if row is not None and isinstance(row[0], bytes) else None
