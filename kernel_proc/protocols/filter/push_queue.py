"""What waits to be pushed to one subscriber, bounded by count and bytes, and by one budget of all. Pure."""

from __future__ import annotations

from collections import deque

__all__ = ["PushBudget", "PushFrame", "PushQueue"]


class PushFrame:
    """One encoded push, shared by all queues it waits in."""

    __slots__ = ("data", "holders")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.holders = 0


class PushBudget:
    """Bytes that wait in all queues together; a frame counts once, in however many queues it is."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


class PushQueue:
    """Frames for one subscriber, oldest first. At least one always fits, so far as the budget allows."""

    __slots__ = ("_budget", "_frames", "_max_bytes", "_max_count", "size")

    def __init__(self, budget: PushBudget, *, max_count: int, max_bytes: int) -> None:
        self._budget = budget
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._frames: deque[PushFrame] = deque()
        self.size = 0
        """Bytes waiting."""

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: PushFrame) -> bool:
        """Queue a frame; False if there is no room for it."""
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
        """The next bytes to write and how many frames they are: at least one, more while they fit."""
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
        """Drop everything; returns how many frames that was."""
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
