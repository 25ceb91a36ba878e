"""Detect the use of a client after a fork.

After a fork the child has copies of all objects but none of the threads, and its sockets and its loop's
selector are shared with the parent: using them, or closing them properly, would disturb the parent. So a
client of the parent is refused in the child, and left alone.
"""

from __future__ import annotations

import os

from logos_client.exceptions import ForkedError

_forks = 0
"""Between the first process and this one. Counted by a hook: to ask the system each time costs a system call
for each request."""


def _forked() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):  # where there is fork
    os.register_at_fork(after_in_child=_forked)


class HomeProcess:
    """Remembers the process in which it was created."""

    __slots__ = ("_forks", "pid")

    def __init__(self) -> None:
        self.pid: int = os.getpid()
        self._forks = _forks

    @property
    def left(self) -> bool:
        """Whether this is a forked child of that process."""
        return self._forks != _forks

    def check(self) -> None:
        """Raise `ForkedError` in a forked child."""
        if self.left:
            raise ForkedError(self.pid)
