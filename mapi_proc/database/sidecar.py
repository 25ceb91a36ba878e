"""The two small files beside the database, and what they prove at the next start.

- `.generation` counts the starts. It is replaced at every start and never touched while running, so its inode
  change time (ctime), which no copy preserves, identifies this place on disk. The database records it: a
  directory that was restored as a whole has a different one.
- `.written` counts the committed events and sends, and describes the main file as last seen. It is rewritten
  in place after every commit, without a sync: it only has to survive a process crash, since a host crash
  shows by the boot id. A database with fewer events than `.written` counts is an older copy, or has lost its
  write-ahead log.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple, Self

from mapi_proc.database.batch import Batch
from mapi_proc.database.errors import DatabaseGoneError, LeftoverLogError
from mapi_proc.database.records import Snapshot

_RECORD: Final = 160
_SQLITE_MAGIC: Final = b"SQLite format 3\0"


class Counts(NamedTuple):
    """Counters that never fall: events ever journalled for apps, highest id of a send."""

    events: int = 0
    sends: int = 0


class Tally:
    """Carries `Counts` forward batch by batch. Counts by seq, since a refused batch leaves a hole."""

    def __init__(self, counts: Counts, snapshot: Snapshot) -> None:
        self.counts = counts
        self._last = {
            app.app_id: max([app.acked, app.dropped, *(e.last for e in snapshot.extents[app.app_id][-1:])])
            for app in snapshot.apps
        }

    def add(self, batch: Batch) -> None:
        events, sends = self.counts
        last = self._last
        for (app_id,) in batch.apps_forgotten:
            last.pop(app_id, None)  # its events stay counted (`identity.FORGET_EVENTS`)
        for app in batch.apps_created:
            last[app[0]] = 0
        for row in batch.journal_rows:
            before = last.get(row.app_id)
            if before is not None and row.last > before:
                events += row.last - before
                last[row.app_id] = row.last
        if batch.outbox_added:
            refused = batch.refused_sends
            sends = max([sends, *(one.entry_id for one in batch.outbox_added if one.entry_id not in refused)])
        self.counts = Counts(events, sends)


class MainFile(NamedTuple):
    """The main file's state. Only a checkpoint changes it."""

    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


class Written(NamedTuple):
    """The content of `.written`. `main` is None while a checkpoint runs; `place` as in `place_of`."""

    counts: Counts
    place: int
    main: MainFile | None


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file next to the database."""
    return path.with_name(path.name + suffix)


def read_generation(path: Path) -> int:
    """Return the number of starts in `.generation`; 0 if it is missing or unreadable."""
    try:
        return int(beside(path, ".generation").read_text())
    except (OSError, ValueError):
        return 0


def write_generation(path: Path, generation: int) -> int:
    """Replace `.generation`. Return the place that it now has (see the module docstring)."""
    target = beside(path, ".generation")
    draft = target.with_name(target.name + ".new")
    draft.touch(mode=0o600)
    draft.write_text(str(generation))
    draft.replace(target)
    return place_of(path)


def place_of(path: Path) -> int:
    """Return the identity of this place on disk, or 0 if `.generation` is missing."""
    try:
        return beside(path, ".generation").stat().st_ctime_ns
    except OSError:
        return 0


def read_written(path: Path) -> Written | None:
    """Read `.written`; None if it is missing or unreadable."""
    try:
        numbers = [int(word) for word in beside(path, ".written").read_text().split()]
        events, sends, place, *main = numbers
        return Written(Counts(events, sends), place, MainFile(*main) if any(main) else None)
    except (OSError, ValueError, TypeError):
        return None


def check_leftover_log(path: Path) -> None:
    """Refuse a main file that was replaced while its predecessor's write-ahead log stayed.

    Call it under the lock, before SQLite opens the file: SQLite would replay that log into the wrong file,
    and the result would be neither the backup nor the old database. Raises `LeftoverLogError`.
    """
    written = read_written(path)
    try:
        log_size = beside(path, "-wal").stat().st_size
        main = MainFile.of(path.stat())
    except FileNotFoundError:
        return
    if written is None or written.main is None or written.place != place_of(path):
        return  # nothing to compare with, or all of the directory was put back, log included
    if log_size and main.size and main != written.main:
        raise LeftoverLogError(
            f"{path} was replaced while its write-ahead log {path.name}-wal stayed: the log belongs to the"
            f" file that was there before. To use the file that is there now, remove {path.name}-wal and"
            f" {path.name}-shm and start again"
        )
    # From here on SQLite may change the main file, also in a start that fails.
    _write(beside(path, ".written"), written._replace(main=None))


class FileWatch:
    """Detects that the open database's files were deleted, replaced or truncated, and maintains `.written`.

    Belongs to the writer's thread. SQLite itself would keep writing into an unlinked file.
    """

    def __init__(self, path: Path, descriptor: int, log: int, counts: Counts, place: int) -> None:
        """Watch the main file and the write-ahead log by their descriptors; everything up to `counts` is
        committed."""
        self._path = path
        self._log_path = beside(path, "-wal")
        self._descriptor = descriptor
        self._counts = counts
        self._place = place
        self._main: MainFile | None = MainFile.of(os.fstat(descriptor))
        self._size = self._main.size
        self._record = os.open(
            beside(path, ".written"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        self._log_inode = os.fstat(log).st_ino
        self._write()

    def check(self) -> None:
        """Raise `DatabaseGoneError` unless the next start would find what is committed now."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            raise DatabaseGoneError(f"{self._path} was deleted while it was open") from None
        main = MainFile.of(status)
        if main.inode != os.fstat(self._descriptor).st_ino:
            raise DatabaseGoneError(f"{self._path} was replaced while it was open")
        if main != self._main:
            # Another program's checkpoint does this too (VACUUM shrinks the file); the file it leaves is
            # whole.
            if main.size < self._size and not _whole(os.pread(self._descriptor, 32, 0), main.size):
                raise DatabaseGoneError(f"{self._path} was truncated while it was open")
            self._main, self._size = main, main.size
            self._write()
        if self._inode(self._log_path) != self._log_inode:
            raise DatabaseGoneError(f"{self._log_path} was deleted or replaced while it was open")

    def committed(self, counts: Counts) -> None:
        """Record that all of this is on disk."""
        if counts != self._counts:
            self._counts = counts
            self._write()

    def checkpointing(self) -> None:
        """Mark the main file as about to change; until the next `check` its state proves nothing."""
        self._main = None
        self._write()

    def checkpointed(self) -> None:
        """Record the main file as a checkpoint left it."""
        self._main = MainFile.of(os.fstat(self._descriptor))
        self._size = self._main.size
        self._write()

    def close(self) -> None:
        """Close the file; its content stays."""
        os.close(self._record)

    def _write(self) -> None:
        os.pwrite(self._record, _encode(Written(self._counts, self._place, self._main)), 0)

    @staticmethod
    def _inode(path: Path) -> int:
        try:
            return path.stat().st_ino
        except FileNotFoundError:
            return 0


def _encode(written: Written) -> bytes:
    """Encode at a fixed length: rewriting in place then needs no space on a full disk."""
    numbers = (*written.counts, written.place, *(written.main or MainFile(0, 0, 0)))
    return " ".join(str(number) for number in numbers).ljust(_RECORD - 1).encode() + b"\n"


def _write(path: Path, written: Written) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.pwrite(descriptor, _encode(written), 0)
    finally:
        os.close(descriptor)


def _whole(header: bytes, size: int) -> bool:
    """Return whether a main file of this size holds all pages that its header claims (SQLite file format,
    1.3).
    """
    if not header.startswith(_SQLITE_MAGIC):
        return False
    page_size = int.from_bytes(header[16:18], "big")
    return size >= int.from_bytes(header[28:32], "big") * (65536 if page_size == 1 else page_size)
