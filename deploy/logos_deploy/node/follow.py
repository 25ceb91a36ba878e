"""Follow a log file as it grows, across its rotation."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO, Final

_CHUNK: Final = 64 * 1024
_LONGEST_LINE: Final = 64 * 1024


class LogFollower:
    """Returns the lines added since the last read. The file need not exist yet."""

    def __init__(self, path: Path) -> None:
        """Start at the current end of the file."""
        self.path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        file = self._opened()
        if file is not None:
            file.seek(0, os.SEEK_END)

    def _opened(self) -> BinaryIO | None:
        if self._file is None:
            with contextlib.suppress(FileNotFoundError):
                self._file = self.path.open("rb")
        return self._file

    def read(self) -> list[str]:
        """Return whole lines, at most about 64 KiB of them; call again while there are any."""
        while (file := self._opened()) is not None:
            data = file.read(_CHUNK)
            if not data:
                if not self._rotated(file):
                    break
                self.close()  # at its end; continue with the new file
                continue
            *lines, self._rest = (self._rest + data).split(b"\n")
            if len(self._rest) >= _LONGEST_LINE:
                lines.append(self._rest)
                self._rest = b""
            if lines:
                return [line.decode("utf-8", "replace") for line in lines]
        return []

    def _rotated(self, file: BinaryIO) -> bool:
        mine = os.fstat(file.fileno())
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False  # not at its end yet
        same = (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
        # truncated in place: reopen it like a new one
        return not same or there.st_size < file.tell()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def tail(path: Path, lines: int, since: int = 0) -> list[str]:
    """Return the last lines of a file, within its last 64 KiB and behind position `since`, unless it was
    truncated meanwhile; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since if since <= size else 0, size - _CHUNK))
            data = file.read()
    except OSError:
        return []
    return data.decode("utf-8", "replace").splitlines()[-lines:]
