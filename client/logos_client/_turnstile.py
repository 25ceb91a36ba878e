"""A fair semaphore: bounds concurrent requests, waiters in FIFO order."""

from __future__ import annotations

import asyncio
from collections import deque

from ipc_schema.errors import ErrorCode, IpcError


class Turnstile:
    """Admits as many concurrent requests as the server accepts; the others wait in order.

    A request has as many slots as it counts for; one that counts for more than there are has to be alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    def enter(self, weight: int = 1) -> bool:
        """Take slots if they are free and no other request waits."""
        if self._waiting or not self._fits(weight):
            return False
        self._inside += weight
        return True

    def _fits(self, weight: int) -> bool:
        return not self._inside or self._inside + weight <= self._limit

    async def wait(self, deadline: float, method: str, weight: int = 1) -> None:
        """Wait for slots. Raises `IpcError` (`deadline_exceeded`)."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, weight))
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave(weight)  # the slots came too late: pass them on
            else:
                self._hand_on()  # those behind may need less
            if isinstance(error, TimeoutError):
                raise IpcError(
                    ErrorCode.DEADLINE_EXCEEDED, f"{method}: too many requests in flight"
                ) from None
            raise

    def leave(self, weight: int = 1) -> None:
        """Free the slots."""
        self._inside -= weight
        self._hand_on()

    def resize(self, limit: int) -> None:
        """Change the number of slots."""
        self._limit = limit
        self._hand_on()

    def _hand_on(self) -> None:
        while self._waiting:
            turn, weight = self._waiting[0]
            if not turn.done():
                if not self._fits(weight):
                    return
                self._inside += weight
                turn.set_result(None)
            self._waiting.popleft()
