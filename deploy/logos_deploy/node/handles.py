"""Signal a process that is not our child.

Process ids are reused: signals go through a pidfd where the system has them (Linux), so that they reach the
intended process or none.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import TracebackType
from typing import Self


class ProcessHandle:
    """A process that need not be our child. Close it, or use it as a context manager."""

    def __init__(self, pid: int) -> None:
        """Open it. Raises `ProcessLookupError` if there is no such process."""
        self.pid = pid
        self._descriptor = -1
        if hasattr(os, "pidfd_open"):
            try:
                self._descriptor = os.pidfd_open(pid)
                return
            except ProcessLookupError:
                raise
            except OSError:  # an old kernel, or a sandbox without this call
                pass
        os.kill(pid, 0)

    def alive(self) -> bool:
        """Return whether the process still runs; a zombie (ended, not reaped yet) does not."""
        try:
            self.signal(0)
        except ProcessLookupError:
            return False
        return not _is_zombie(self.pid)

    def signal(self, number: int) -> None:
        """Send a signal. Raises `ProcessLookupError` if the process is gone."""
        if self._descriptor >= 0:
            signal.pidfd_send_signal(self._descriptor, number)
        else:
            os.kill(self.pid, number)

    def kill(self) -> bool:
        """Send KILL. Return False if the process is already gone."""
        try:
            self.signal(signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Release the handle; the process is not affected."""
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
