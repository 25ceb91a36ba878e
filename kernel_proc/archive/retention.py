"""How much of the archive a retention policy makes superfluous.

nwaku trims at 1.3 times a capacity and drops a fifth of all rows when a size is exceeded; here the bounds are
kept as they are written, since the excess is removed continuously and in small pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ipc_schema.config.archive import RetentionPolicy

__all__ = ["RetentionClock", "excess"]

_SLACK_NS: Final = 60 * 1_000_000_000
"""How much older than now the newest message may be without a doubt about the clock; stores take a message
for 20 s (13/WAKU2-STORE), and hosts differ."""


def excess(policy: RetentionPolicy, messages: int, size: int) -> int:
    """Count the oldest messages beyond capacity and size; a size is converted by the average message."""
    too_many = 0
    if policy.messages is not None:
        too_many = messages - policy.messages
    if policy.bytes is not None and size > policy.bytes:
        too_many = max(too_many, -(-(size - policy.bytes) * messages // size))
    return max(0, too_many)


class RetentionClock:
    """The time by which messages are too old. A wall clock that is wrong must not empty an archive.

    The host's clock may be days ahead when the node starts, or be set so while it runs. So as much time has
    passed as the newest message shows or as this process has lived since, and never more than the wall clock
    says. While no message comes, the time in which the node is down does not count: messages then stay
    longer.
    """

    def __init__(self, wall: Callable[[], int], steady: Callable[[], int]) -> None:
        """Both in ns; `steady` is a clock that is never set."""
        self._wall = wall
        self._steady = steady
        self._began = wall() - steady()
        self._known: int | None = None
        """The time that is certain, less the steady clock's reading."""

    def now(self, newest: int | None) -> int:
        """The time of now. `newest`: the timestamp of the newest message; None: it is not known."""
        steady = self._steady()
        passed = self._began + steady  # since the start; a step of the wall clock is not in it
        shown = passed if newest is None else min(newest + _SLACK_NS, passed)
        if self._known is not None:
            shown = max(shown, self._known + steady)
        self._known = shown - steady
        return min(shown, self._wall())
