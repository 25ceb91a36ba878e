"""Holding on to one process, and to one directory.

A process id alone is a number that the system gives out again: signals go through a pidfd where there are
any (Linux), so that they reach the process meant or nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["DirectoryInUseError", "DirectoryLock", "ProcessHandle", "holder_of", "private_directory"]


class ProcessHandle:
    """A process that need not be our child. Close it, or use it as a context manager."""

    def __init__(self, pid: int) -> None:
        """Raises `ProcessLookupError` when there is no such process."""
        self.pid = pid
        self._descriptor = -1
        if hasattr(os, "pidfd_open"):
            try:
                self._descriptor = os.pidfd_open(pid)
                return
            except ProcessLookupError:
                raise
            except OSError:  # an old system, or a sandbox without this call
                pass
        os.kill(pid, 0)

    def alive(self) -> bool:
        """Whether it still runs. A zombie, which has ended and waits to be reaped, does not."""
        try:
            self.signal(0)
        except ProcessLookupError:
            return False
        return not _is_zombie(self.pid)

    def signal(self, number: int) -> None:
        """Send a signal. Raises `ProcessLookupError` when the process has gone."""
        if self._descriptor >= 0:
            signal.pidfd_send_signal(self._descriptor, number)
        else:
            os.kill(self.pid, number)

    def kill(self) -> bool:
        """Send KILL; False when the process has gone already."""
        try:
            self.signal(signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Let go of it; the process goes on."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_zombie(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in ("Z", "X")


class DirectoryInUseError(Exception):
    """Another living process owns the directory."""


class DirectoryLock:
    """An exclusive `flock`, which the system drops when its owner dies in whatever way."""

    def __init__(self, path: Path) -> None:
        """Take the lock at once. Raises `DirectoryInUseError`, or OSError when the file cannot be made."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(self._descriptor)
            os.close(self._descriptor)
            raise DirectoryInUseError(f"in use by process {owner}" if owner else "in use") from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give it up. The file stays: removing it would race with the next owner."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def holder_of(path: Path, patience: float = 0.0) -> int | None:
    """The process id of whoever holds the lock file `path`; 0 when it is held by somebody who does not say.

    None: nobody holds it, or there is no such file. `patience`: seconds to wait for it to come free.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    deadline = time.monotonic() + patience
    try:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            if time.monotonic() >= deadline:
                return _owner(descriptor) or 0
            time.sleep(0.05)
    finally:
        os.close(descriptor)


def _owner(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() else None


def private_directory(path: Path) -> None:
    """Make `path` and its parents where missing, 0700. OSError, also when it is another user's."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to uid {status.st_uid}, not to this process")
    if status.st_mode & 0o777 != 0o700:
        path.chmod(0o700)
