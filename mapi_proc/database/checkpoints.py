"""When to move the write-ahead log into the file: by how much the log has grown, about.

SQLite does not tell how long its log is, except in the answer to a checkpoint. A commit of a small batch
writes many times the batch's size, for it writes whole pages: so much for each commit besides its bytes,
which is learned from the answers. Pure.
"""

from __future__ import annotations

from typing import Final

__all__ = ["LOG_BYTES", "LogGrowth"]

LOG_BYTES: Final = 6 << 20
"""How much the log grows before it is moved. Less costs more syncs, more only lengthens the pause that each
is."""
FRAME_BYTES: Final = 4096 + 24
_FIRST_GUESS: Final = 32 << 10
_LEAST: Final = 1 << 10
_MOST: Final = 256 << 10


class LogGrowth:
    """Counts commits between checkpoints. `log_frames`: how long the log was at the last one."""

    def __init__(self, limit: int = LOG_BYTES) -> None:
        self._limit = limit
        self._a_commit = _FIRST_GUESS
        self._commits = 0
        self._bytes = 0
        self._left = 0
        self.log_frames = 0

    @property
    def due(self) -> bool:
        """Whether the log has grown enough."""
        return self._bytes + self._commits * self._a_commit >= self._limit

    def committed(self, size: int) -> None:
        """One more commit, of `size` bytes of content."""
        self._commits += 1
        self._bytes += size

    def checkpointed(self, log_frames: int, moved_frames: int) -> None:
        """The answer of a checkpoint: the length of the log, and how much of it is in the file now. All of
        it, and the next commit begins the log anew; else a reader still needs the rest, and it grows on.
        """
        written = log_frames - self._left if log_frames >= self._left else log_frames
        if self._commits:
            each = (written * FRAME_BYTES - self._bytes) // self._commits
            self._a_commit = min(max(each, _LEAST), _MOST)
        self._left = 0 if moved_frames >= log_frames else log_frames
        self.log_frames = log_frames
        self._commits = self._bytes = 0

    def failed(self) -> None:
        """The checkpoint could not be made: next time after as much again."""
        self._commits = self._bytes = 0
