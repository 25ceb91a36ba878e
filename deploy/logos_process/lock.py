"""Exclusive ownership of a directory or socket by one process.

The lock is an advisory `flock` on a file, which the system releases when its owner dies for any reason, so
that a leftover file means nothing. The process id in the file is a hint for messages: it may have been
written in another pid namespace (two containers on one volume), where the number means another process.
Before signalling it, `holds` must have proven that this very process has the lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_POLL: Final = 0.05


class LockedError(Exception):
    """Another live process holds the lock. `pid` is the one it names, 0 if none."""

    def __init__(self, text: str, pid: int) -> None:
        super().__init__(text)
        self.pid = pid


class FileLock:
    """An exclusive lock on a file, from `acquire` to `release`, or as a context manager."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path, what: str, *, mode: int = 0o600) -> Self:
        """Lock `path` without waiting, creating it if missing. Raise `LockedError`, or OSError if the file
        cannot be created or written; `what` names the owned thing for the message ("the data directory
        /x")."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        try:
            if not try_lock(descriptor):
                pid = _named(descriptor)
                by = f" by process {pid}" if pid else ""
                raise LockedError(f"{what} is in use{by}: one node at a time (lock file {path})", pid)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    def release(self) -> None:
        """Release the lock. The file stays: removing it would race with the next owner."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def holder_of(path: Path, patience: float = 0.0) -> int | None:
    """Return the process id in a held lock file; 0 if it names none, None if the lock is free or the file
    missing.

    `patience`: seconds to wait for it to become free. Raise OSError.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    deadline = time.monotonic() + patience
    try:
        while not try_lock(descriptor, shared=True):
            if time.monotonic() >= deadline:
                return _named(descriptor)
            time.sleep(_POLL)
        return None
    finally:
        os.close(descriptor)


def holds(pid: int, path: Path) -> bool:
    """Return whether process `pid`, in our pid namespace, provably has `path` open with a lock on it.

    Linux lists the locks of each descriptor in `/proc/<pid>/fdinfo` (proc(5)). Elsewhere, and where another
    user's process cannot be inspected, nothing is proven. Hold a pidfd of the process before calling: the
    number can be reused between the proof and the signal.
    """
    try:
        wanted = path.stat()
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                found = entry.stat()
                same = (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)
                if same and any(_lock_lines(Path(f"/proc/{pid}/fdinfo/{entry.name}"))):
                    return True
    except OSError:
        pass
    return False


def _lock_lines(fdinfo: Path) -> Iterator[str]:
    return (line for line in fdinfo.read_text().splitlines() if line.startswith("lock:") and "FLOCK" in line)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file until it is closed. Return False if another process has it locked. Raise OSError."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _named(descriptor: int) -> int:
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() else 0
