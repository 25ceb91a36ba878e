"""Whose process a client belongs to.

After a fork the child has copies of all objects, but none of the threads, and its sockets and its loop's
selector are the parent's as well: whatever it did with them, closing them in good order included, would
disturb the parent. So a client of the parent is refused in the child, and left alone.
"""

from __future__ import annotations

import os

from logos_client.exceptions import ForkedError

__all__ = ["HomeProcess"]


class HomeProcess:
    """Remembers the process in which it was made."""

    __slots__ = ("pid",)

    def __init__(self) -> None:
        self.pid: int = os.getpid()

    @property
    def left(self) -> bool:
        """Whether this is another process, by a fork."""
        return os.getpid() != self.pid

    def check(self) -> None:
        """Raises `ForkedError` in another process."""
        if self.left:
            raise ForkedError(self.pid)
