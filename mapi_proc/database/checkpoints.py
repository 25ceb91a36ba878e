"""Decide when to checkpoint the write-ahead log, from an estimate of its growth.

SQLite reports the length of its log only in the answer to a checkpoint. A commit writes whole pages, so a
small batch costs many times its own size: the overhead per commit is learned from those answers. Pure.
"""

from __future__ import annotations

from typing import Final

LOG_BYTES: Final = 6 << 20
"""Growth of the log before a checkpoint. A lower value costs more syncs, a higher one longer pauses."""
FRAME_BYTES: Final = 4096 + 24
_FIRST_GUESS: Final = 32 << 10
_LEAST: Final = 1 << 10
_MOST: Final = 256 << 10


class LogGrowth:
    """Estimates the log's growth between checkpoints. `log_frames` is its length at the last one."""

    def __init__(self, limit: int = LOG_BYTES) -> None:
        self._limit = limit
        self._a_commit = _FIRST_GUESS
        self._commits = 0
        self._bytes = 0
        self._left = 0
        self.log_frames = 0

    @property
    def due(self) -> bool:
        """Return whether the log has grown enough for a checkpoint."""
        return self._bytes + self._commits * self._a_commit >= self._limit

    def committed(self, size: int) -> None:
        """Record a commit of `size` bytes of content."""
        self._commits += 1
        self._bytes += size

    def checkpointed(self, log_frames: int, moved_frames: int) -> None:
        """Record a checkpoint's answer: the length of the log, and how much of it is in the main file now.

        When all of it is, the next commit restarts the log from the beginning. Otherwise a reader still
        needs the rest, and the log keeps growing.
        """
        written = log_frames - self._left if log_frames >= self._left else log_frames
        if self._commits:
            each = (written * FRAME_BYTES - self._bytes) // self._commits
            self._a_commit = min(max(each, _LEAST), _MOST)
        self._left = 0 if moved_frames >= log_frames else log_frames
        self.log_frames = log_frames
        self._commits = self._bytes = 0

    def failed(self) -> None:
        """Record a failed checkpoint: wait for as much growth again."""
        self._commits = self._bytes = 0
