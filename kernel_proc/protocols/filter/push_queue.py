"""The push queue of one subscriber, bounded by count and bytes, and by a budget shared by all. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class PushFrame:
    """One encoded push, shared by all queues that hold it."""

    data: bytes
    holders: int = 0


@dataclass(slots=True, eq=False)
class PushBudget:
    """Total bytes queued. A frame counts once, however many queues hold it."""

    limit: int
    used: int = 0


class PushQueue:
    """Frames for one subscriber in FIFO order. One frame always fits, budget permitting."""

    __slots__ = ("_budget", "_frames", "_max_bytes", "_max_count", "size")

    def __init__(self, budget: PushBudget, *, max_count: int, max_bytes: int) -> None:
        self._budget = budget
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._frames: deque[PushFrame] = deque()
        self.size = 0
        """Queued bytes."""

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: PushFrame) -> bool:
        """Queue a frame. Return False if there is no room."""
        frames, budget, size = self._frames, self._budget, len(frame.data)
        if frames and (len(frames) >= self._max_count or self.size + size > self._max_bytes):
            return False
        if not frame.holders:
            if budget.used + size > budget.limit:
                return False
            budget.used += size
        frame.holders += 1
        frames.append(frame)
        self.size += size
        return True

    def take(self, max_bytes: int) -> tuple[bytes, int]:
        """Return the next bytes to write and the number of frames in them: at least one, more as they fit."""
        frames = self._frames
        if not frames:
            return b"", 0
        taken = [self._pop()]
        size = len(taken[0])
        while frames and size + len(frames[0].data) <= max_bytes:
            taken.append(self._pop())
            size += len(taken[-1])
        return (taken[0] if len(taken) == 1 else b"".join(taken)), len(taken)

    def clear(self) -> int:
        """Drop everything. Return the number of frames dropped."""
        dropped = len(self._frames)
        while self._frames:
            self._pop()
        return dropped

    def _pop(self) -> bytes:
        frame = self._frames.popleft()
        frame.holders -= 1
        size = len(frame.data)
        self.size -= size
        if not frame.holders:
            self._budget.used -= size
        return frame.data
