"""The output of a launched process: a file in the data directory, bounded by rotation.

The process writes to the file itself, so that it never waits for the app and can still write after the
app's death. So the file cannot be replaced under it: it is copied and truncated, and a line written in
between is lost.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

from logos_deploy.node.follow import tail

MAX_LOG_BYTES: Final = 10 << 20
_BACKUPS: Final = 3


class LogFile:
    """`<name>.log`, and up to three older ones beside it: `<name>.log.1` is the newest of them."""

    def __init__(self, path: Path, max_bytes: int = MAX_LOG_BYTES) -> None:
        self.path = path
        self._max_bytes = max_bytes

    def open(self) -> int:
        """Open a descriptor for a process to append to. Readable by its owner only."""
        return os.open(
            self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )

    def size(self) -> int:
        """Its size in bytes; 0 if there is no file."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def rotate(self) -> bool:
        """Rotate it if it is too large. Return whether it was."""
        if self.size() <= self._max_bytes:
            return False
        for number in range(_BACKUPS, 1, -1):
            with contextlib.suppress(FileNotFoundError):
                self._backup(number - 1).replace(self._backup(number))
        copy = self._backup(1)
        copy.unlink(missing_ok=True)
        shutil.copyfile(self.path, copy)
        copy.chmod(0o600)
        os.truncate(self.path, 0)
        return True

    def _backup(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def lines_since(self, position: int, most: int = 20) -> list[str]:
        """Return the last lines written behind `position`."""
        return tail(self.path, most, position)
