"""Reading a log file as it grows, across its rotation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["LogFollower", "tail"]

_CHUNK: Final = 64 * 1024
_LONGEST_LINE: Final = 64 * 1024


class LogFollower:
    """Gives the lines that were added since the last look. The file need not exist yet."""

    def __init__(self, path: Path) -> None:
        """Begins at the end of what the file holds now."""
        self.path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        if self._open() and self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def _open(self) -> bool:
        try:
            self._file = self.path.open("rb")
        except FileNotFoundError:
            return False
        return True

    def read(self) -> list[str]:
        """Whole lines, at most about 64 KiB of them; call again while there are any."""
        if self._file is None and not self._open():
            return []
        assert self._file is not None
        data = self._file.read(_CHUNK)
        if not data and self._rotated():
            # The old file is read to its end; the new one is next.
            self._file.close()
            self._file = None
            return self.read()
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        return [line.decode("utf-8", "replace") for line in lines]

    def _rotated(self) -> bool:
        assert self._file is not None
        mine = os.fstat(self._file.fileno())
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False  # in the middle of it
        if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
            if there.st_size < self._file.tell():
                self._file.seek(0)  # emptied in its place
            return False
        return True

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a file, as far as they stand in its last 64 KiB; empty when it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _CHUNK))
            data = file.read()
    except OSError:
        return []
    return data.decode("utf-8", "replace").splitlines()[-lines:]
