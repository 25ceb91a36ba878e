"""Errors of the database.

    DatabaseError
    ├── DatabaseLockedError       another process has the file
    ├── DatabaseUnavailableError  the system refuses the file: full disk, no permission, I/O error
    ├── DatabaseTooNewError       the file was written by a later version of this program
    ├── LeftoverLogError          a copy was put back over the write-ahead log of the file before it
    ├── DatabaseGoneError         the open file was deleted, replaced or truncated
    ├── NotOurDatabaseError       a SQLite file of another program stands there (in `schema`)
    ├── DatabaseBusyError         the writer's queue is full: look at `Database.congested` first
    ├── DatabaseClosedError       submitted after `close`, or not on disk when `close` gave up
    └── BatchRefusedError         the batch itself cannot be stored (a constraint, an impossible value)

A full disk or an I/O error while the database is open is none of these: the writer keeps the batches and
tries again (`DatabaseState.STALLED`), because nothing may be acknowledged that is not on disk and nothing
accepted may be lost.
"""

from __future__ import annotations


class DatabaseError(Exception):
    """Root of the database's errors. `retriable`: the same call may succeed later."""

    retriable = False


class DatabaseLockedError(DatabaseError):
    """Another process has the database open."""

    retriable = True


class DatabaseUnavailableError(DatabaseError):
    """The file cannot be opened now: a full disk, no permission, an I/O error."""

    retriable = True


class DatabaseTooNewError(DatabaseError):
    """The schema is from a later version: refused, never touched."""


class LeftoverLogError(DatabaseError):
    """The write-ahead log beside the file belongs to another file: refused, never touched."""


class DatabaseGoneError(DatabaseError):
    """The open file was deleted, replaced or truncated: the next start would not find new commits. Retriable
    (`mv` back)."""

    retriable = True


class DatabaseBusyError(DatabaseError):
    """The writer's queue is full."""

    retriable = True


class DatabaseClosedError(DatabaseError):
    """The database is closed, or was closed before this batch could be stored."""


class BatchRefusedError(DatabaseError):
    """This batch alone was rolled back: it can never be stored as it is."""
