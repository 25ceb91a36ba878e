"""Exclusive ownership of a directory by one process, and the private directories themselves.

The lock is an advisory `flock` on a file: the system drops it when the process dies, however it dies, so a
stale file means nothing. The file's text (the owner's process id) is only for the message of the one refused.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["DirectoryLock", "LockedError", "private_directory"]


class LockedError(Exception):
    """Another living process holds the lock."""


class DirectoryLock:
    """Holds an exclusive lock on a file until `release`, or as a context manager."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path, what: str) -> Self:
        """Lock `path` (made with mode 0600 when missing) or raise `LockedError` at once.

        `what` names the thing owned, for the message: "the data directory /x". OSError when the file
        cannot be made or written.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                by = f" by process {owner}" if owner.isdigit() else ""
                raise LockedError(f"{what} is in use{by}: one node at a time (lock file {path})") from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    def release(self) -> None:
        """Give the lock up. The file stays: removing it would race with the next owner."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def private_directory(path: Path, group: int | None = None) -> None:
    """Make `path` (and its parents) if missing: 0700, or 0750 for the group of that number.

    With a group the directory also hands its group on to what is made in it (setgid): that is how a socket
    gets the right group from the first moment.

    OSError when that is not possible, also when the directory belongs to another user, because then its
    owner could put a socket of his own where ours should be.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to uid {status.st_uid}, not to this process")
    mode = 0o700 if group is None else 0o2750
    if group is not None and status.st_gid != group:
        os.chown(path, -1, group)
    if status.st_mode & 0o7777 != mode:
        path.chmod(mode)
