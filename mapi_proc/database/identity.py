"""Decide whether the file being opened is the one that was closed, and renew all stream ids if it may not be.

(stream id, seq) identifies one event for ever: an app drops whatever it has already seen under it. A database
that may have lost events an app has seen (a restored backup, a host crash before its pages reached the disk)
therefore continues with a new id for every stream.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from logos_process import host_clock
from mapi_proc.database.journal import COLUMNS, SEQ_BITS, SEQ_MASK, events_of
from mapi_proc.database.records import DamagedRowError
from mapi_proc.database.sidecar import (
    Counts,
    Written,
    beside,
    place_of,
    read_generation,
    read_written,
    write_generation,
)

log = logging.getLogger(__name__)

_OLDER: Final = "an older copy was put back, or its write-ahead log is gone"
_LAST_SEQ: Final = (  # (the numbers are our own: no input)
    "max(acked, dropped, ifnull((SELECT max(key) FROM journal"  # noqa: S608
    f" WHERE key > id << {SEQ_BITS} AND key < (id + 1) << {SEQ_BITS}), 0) & {SEQ_MASK})"
)
FORGET_EVENTS: Final = (
    "INSERT INTO meta SELECT 'forgotten_events', ifnull(sum(total), 0) FROM ("  # noqa: S608
    " SELECT CAST(value AS INTEGER) AS total FROM meta WHERE key = 'forgotten_events'"
    f" UNION ALL SELECT {_LAST_SEQ} FROM app WHERE id = ?)"
    " WHERE true ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
"""Keep the number of an app's events when the app goes, so that the sum over all apps never falls."""


class DatabaseIdentity(NamedTuple):
    """What the database records about itself.

    `place` is None if an earlier version of this program wrote it, 0 if the last start did not get far
    enough to know it.
    """

    generation: int
    place: int | None
    boot_id: str
    clean: bool
    counts: Counts


class Beside(NamedTuple):
    """What the sidecar files and the host say."""

    generation: int
    place: int
    written: Written | None
    boot_id: str
    """Identifies one boot of the host. Empty where the system has no boot id: then any unclean end may have
    been a host crash."""


def doubt(kept: DatabaseIdentity, beside: Beside) -> str:
    """Return why the database may lack events that an app has seen; empty if it cannot."""
    if beside.generation > kept.generation:
        return f"it knows of {kept.generation} starts, the files beside it of {beside.generation}: {_OLDER}"
    if kept.place is not None:
        if kept.place and kept.place != beside.place:
            return "it was copied, or its directory was put back"
        if beside.written is None:
            return "the note of what was committed is gone"
        lost = Counts(
            *(max(0, was - now) for was, now in zip(beside.written.counts, kept.counts, strict=True))
        )
        if any(lost):
            return f"{lost.events} events and {lost.sends} sends that were committed are not in it: {_OLDER}"
    if not kept.clean and (not beside.boot_id or kept.boot_id != beside.boot_id):
        return "the host stopped while it was open"
    return ""


def counts_of(connection: sqlite3.Connection) -> Counts:
    """Count what the database holds, with one index probe per app."""
    (events,) = connection.execute(f"SELECT ifnull(sum({_LAST_SEQ}), 0) FROM app").fetchone()  # noqa: S608
    (sends,) = connection.execute("SELECT ifnull(max(id), 0) FROM outbox").fetchone()
    return Counts(events + int(_get(connection, "forgotten_events") or 0), sends)


def settle_identity(
    connection: sqlite3.Connection, path: Path, random: Callable[[int], bytes], boot_id: str | None = None
) -> tuple[bytes, Counts, int]:
    """Count this start, and renew the stream ids if in doubt. Return database id, counts and place."""
    files = Beside(
        read_generation(path),
        place_of(path),
        read_written(path),
        host_clock.boot_id() if boot_id is None else boot_id,
    )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        database_id = bytes(_get(connection, "database_id"))
        kept = _kept(connection)
        if not database_id:
            database_id = random(16)
            _set(connection, "database_id", database_id)
            if files.generation:
                log.warning(
                    "%s or what it held is gone (%s counted %d starts): there are no named apps, streams"
                    " and accepted sends any more",
                    path,
                    beside(path, ".generation").name,
                    files.generation,
                )
        elif reason := doubt(kept, files):
            log.warning("%s: %s; all app streams get new ids", path, reason)
            renew_streams(connection, random)
        generation = max(kept.generation, files.generation) + 1
        _set(connection, "generation", b"%d" % generation)
        _set(connection, "boot_id", files.boot_id.encode())
        _set(connection, "clean", b"0")
        # Until the file beside it is replaced and its place known, this start proves nothing.
        _set(connection, "place", b"0")
        connection.execute("COMMIT")
        place = write_generation(path, generation)
        _set(connection, "place", b"%d" % place)
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("PRAGMA synchronous = NORMAL")
    return database_id, kept.counts, place


def mark_clean(connection: sqlite3.Connection) -> None:
    """Record a clean shutdown: a later host crash no longer matters."""
    _set(connection, "clean", b"1")


def renew_streams(connection: sqlite3.Connection, random: Callable[[int], bytes]) -> None:
    """Give every app's stream a new id. Waiting events keep their numbers."""
    for app_id, old in connection.execute("SELECT id, stream_id FROM app").fetchall():
        renew_stream(connection, app_id, old, random(16))


def renew_stream(connection: sqlite3.Connection, app_id: int, old: bytes, new: bytes) -> None:
    """Give one app's stream a new id."""
    connection.execute("UPDATE app SET stream_id = ? WHERE id = ?", (new, app_id))
    connection.execute("UPDATE outbox SET scope = ? WHERE scope = ?", (new, old))
    bounds = (app_id << SEQ_BITS, (app_id + 1) << SEQ_BITS)
    keys = connection.execute("SELECT key FROM journal WHERE key > ? AND key < ?", bounds).fetchall()
    # Our own columns, no input:
    find = f"SELECT {', '.join(COLUMNS)} FROM journal, (SELECT x'' AS data) WHERE key = ?"  # noqa: S608
    for (key,) in keys:
        row = connection.execute(find, (key,)).fetchone()
        # The stream id is a header's second element, so its first occurrence is the one.
        try:
            headers = b"".join(event.header.replace(old, new, 1) for event in events_of(key & SEQ_MASK, *row))
        except DamagedRowError as error:
            log.error("app %d: %s", app_id, error)  # its place is kept: the app is told
            continue
        connection.execute("UPDATE journal SET header = ? WHERE key = ?", (headers, key))


def _kept(connection: sqlite3.Connection) -> DatabaseIdentity:
    place = _get(connection, "place")
    return DatabaseIdentity(
        generation=int(_get(connection, "generation") or 0),
        place=int(place) if place else None,
        boot_id=_get(connection, "boot_id").decode(errors="replace"),
        clean=_get(connection, "clean") == b"1",
        counts=counts_of(connection),
    )


def _get(connection: sqlite3.Connection, key: str) -> bytes:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    if row is None:
        return b""
    return row[0] if isinstance(row[0], bytes) else str(row[0]).encode()


def _set(connection: sqlite3.Connection, key: str, value: bytes) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
