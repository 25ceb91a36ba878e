"""A fair semaphore: bounds concurrent requests, waiters in FIFO order."""

from __future__ import annotations

import asyncio
from collections import deque

from ipc_schema.errors import ErrorCode, IpcError


class Turnstile:
    """Admits as many concurrent requests as the server accepts; the others wait in order."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def enter(self) -> bool:
        """Take a slot if one is free."""
        if self._inside >= self._limit:
            return False
        self._inside += 1
        return True

    async def wait(self, deadline: float, method: str) -> None:
        """Wait for a slot. Raises `IpcError` (`deadline_exceeded`)."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave()  # the slot came too late: pass it on
            if isinstance(error, TimeoutError):
                raise IpcError(
                    ErrorCode.DEADLINE_EXCEEDED, f"{method}: too many requests in flight"
                ) from None
            raise

    def leave(self) -> None:
        """Hand the slot to the next waiter, or free it."""
        if self._inside > self._limit or not self._hand_on():
            self._inside -= 1

    def resize(self, limit: int) -> None:
        """Change the number of slots."""
        self._limit = limit
        while self._inside < self._limit and self._hand_on():
            self._inside += 1

    def _hand_on(self) -> bool:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return True
        return False
