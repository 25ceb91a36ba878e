"""The tables and their migrations: one script per version, applied in order; `PRAGMA user_version` counts
them.

A released script is never edited: a change is a new script at the end.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from mapi_proc.database.channels import CHANNEL_TABLES
from mapi_proc.database.errors import DatabaseError, DatabaseTooNewError

APPLICATION_ID: Final = 0x4C44_4D41
"""`PRAGMA application_id`, "LDMA": distinguishes our file from any other SQLite database."""

_VERSION_1: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE app (
    id          INTEGER PRIMARY KEY,
    name        TEXT    NOT NULL UNIQUE,
    uid         INTEGER NOT NULL,
    stream_id   BLOB    NOT NULL UNIQUE,
    created     INTEGER NOT NULL,
    last_seen   INTEGER NOT NULL,
    acked       INTEGER NOT NULL DEFAULT 0,
    dropped     INTEGER NOT NULL DEFAULT 0,
    dropped_at  INTEGER NOT NULL DEFAULT 0,
    drop_reason TEXT    NOT NULL DEFAULT ''
);

CREATE TABLE subscription (
    app   INTEGER NOT NULL,
    topic TEXT    NOT NULL,
    PRIMARY KEY (app, topic)
) WITHOUT ROWID;

-- key = app << 40 | seq: each app's events lie together, in order. The small columns stand first, so that the
-- extents can be summed up without touching overflow pages. A payload that several apps got is stored once.
CREATE TABLE journal (
    key        INTEGER PRIMARY KEY,
    time       INTEGER NOT NULL,
    cost       INTEGER NOT NULL,
    payload_id INTEGER,
    header     BLOB    NOT NULL,
    payload    BLOB
);
CREATE INDEX journal_payload ON journal (payload_id) WHERE payload_id IS NOT NULL;
CREATE TABLE payload (id INTEGER PRIMARY KEY, data BLOB NOT NULL);

CREATE TABLE kernel_position (
    stream      TEXT PRIMARY KEY,
    instance    BLOB    NOT NULL,
    epoch       BLOB    NOT NULL,
    seq         INTEGER NOT NULL,
    good_moment INTEGER NOT NULL
) WITHOUT ROWID;

-- Append-only, many hashes in a row: keyed by the hash, each message would dirty a random page.
CREATE TABLE seen (
    id     INTEGER PRIMARY KEY,
    shard  INTEGER NOT NULL,
    time   INTEGER NOT NULL,
    hashes BLOB    NOT NULL
);
CREATE INDEX seen_shard ON seen (shard, time);

CREATE TABLE outbox (
    id            INTEGER PRIMARY KEY,
    scope         BLOB    NOT NULL,
    request_id    BLOB    NOT NULL,
    fingerprint   BLOB    NOT NULL,
    content_topic TEXT    NOT NULL,
    payload       BLOB    NOT NULL,
    meta          BLOB    NOT NULL,
    ephemeral     INTEGER NOT NULL,
    accepted      INTEGER NOT NULL,
    state         INTEGER NOT NULL,
    attempts      INTEGER NOT NULL,
    timestamp     INTEGER NOT NULL,
    message_hash  BLOB    NOT NULL,
    first_attempt INTEGER NOT NULL,
    propagated    INTEGER NOT NULL,
    elapsed       INTEGER NOT NULL,
    finished      INTEGER NOT NULL,
    detail        TEXT    NOT NULL,
    UNIQUE (scope, request_id)
);
CREATE INDEX outbox_pending ON outbox (id) WHERE state < 10;
CREATE INDEX outbox_finished ON outbox (accepted) WHERE state >= 10;
"""

_VERSION_2: Final = """
-- What each named app was given, many hashes in a row: history must not bring a message twice.
CREATE TABLE delivered (
    id     INTEGER PRIMARY KEY,
    app    INTEGER NOT NULL,
    time   INTEGER NOT NULL,
    hashes BLOB    NOT NULL
);
CREATE INDEX delivered_app ON delivered (app);
CREATE INDEX delivered_time ON delivered (time);

-- When an app gave up a topic, and history it asked for that is not fetched yet.
CREATE TABLE left_topic (
    app   INTEGER NOT NULL,
    topic TEXT    NOT NULL,
    time  INTEGER NOT NULL,
    PRIMARY KEY (app, topic)
) WITHOUT ROWID;
CREATE TABLE wanted_history (
    app   INTEGER NOT NULL,
    topic TEXT    NOT NULL,
    start INTEGER NOT NULL,
    end   INTEGER NOT NULL,
    PRIMARY KEY (app, topic)
) WITHOUT ROWID;
"""

# `first_attempt` was the message's timestamp, and `elapsed`, which is 0 since, was written again and again.
_VERSION_4: Final = "UPDATE outbox SET first_attempt = -elapsed, elapsed = 0 WHERE state < 10;"

# How a channel's send has ended, for those who ask later.
_VERSION_5: Final = """
ALTER TABLE channel_request ADD COLUMN end TEXT NOT NULL DEFAULT '';
ALTER TABLE channel_request ADD COLUMN detail TEXT NOT NULL DEFAULT '';
"""

# A row holds several events of an app (`journal.JournalRow`): NULL for one alone, as all rows before.
_VERSION_6: Final = "ALTER TABLE journal ADD COLUMN sizes BLOB;"

MIGRATIONS: Final = (_VERSION_1, _VERSION_2, CHANNEL_TABLES, _VERSION_4, _VERSION_5, _VERSION_6)


class NotOurDatabaseError(DatabaseError):
    """A SQLite file of another program stands where ours should be."""


def migrate(connection: sqlite3.Connection, migrations: tuple[str, ...] = MIGRATIONS) -> bool:
    """Migrate the schema to the newest version, each step in its own transaction. Return True for a new
    database.

    Raises `DatabaseTooNewError` for a later version and `NotOurDatabaseError` for another program's file;
    neither is touched.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application or version or tables:
            raise NotOurDatabaseError("the file is a SQLite database of another program")
    if version > len(migrations):
        raise DatabaseTooNewError(
            f"the database has schema version {version}, this program knows up to {len(migrations)}"
        )
    for number, script in enumerate(migrations[version:], start=version + 1):
        # executescript commits what is open and runs the text as it is: BEGIN and COMMIT stand in it.
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\nPRAGMA application_id = {APPLICATION_ID};\n"
                f"PRAGMA user_version = {number};\nCOMMIT;"
            )
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return bool(version == 0)
