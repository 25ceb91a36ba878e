"""A bound on how many do something at once, with a line in front of it."""

from __future__ import annotations

import asyncio
from collections import deque

from ipc_schema.errors import ErrorCode, IpcError


class Turnstile:
    """Lets as many requests in at once as the server takes; the others wait in order."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def enter(self) -> bool:
        """Take a place if there is one."""
        if self._inside >= self._limit:
            return False
        self._inside += 1
        return True

    async def wait(self, deadline: float, method: str) -> None:
        """Wait for a place that another hands on. Raises `IpcError` (`deadline_exceeded`)."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave()  # the place came too late for us
            if isinstance(error, TimeoutError):
                raise IpcError(
                    ErrorCode.DEADLINE_EXCEEDED, f"{method}: too many requests under way"
                ) from None
            raise

    def leave(self) -> None:
        """Give a place to the next in line, or free it."""
        if self._inside > self._limit or not self._hand_on():
            self._inside -= 1

    def resize(self, limit: int) -> None:
        """From now on as many at once."""
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
