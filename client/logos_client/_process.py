"""Detect the use of a client after a fork.

After a fork the child has copies of all objects but none of the threads, and its sockets and its loop's
selector are shared with the parent: using them, or closing them properly, would disturb the parent. So a
client of the parent is refused in the child, and left alone.
"""

from __future__ import annotations

import os

from logos_client.exceptions import ForkedError

__all__ = ["HomeProcess"]


class HomeProcess:
    """Remembers the process in which it was created."""

    __slots__ = ("pid",)

    def __init__(self) -> None:
        self.pid: int = os.getpid()

    @property
    def left(self) -> bool:
        """Whether this is a forked child of that process."""
        return os.getpid() != self.pid

    def check(self) -> None:
        """Raise `ForkedError` in a forked child."""
        if self.left:
            raise ForkedError(self.pid)
