"""Compute what exceeds a retention policy.

nwaku trims at 1.3 times a capacity and drops a fifth of all rows when a size is exceeded; here the limits
apply exactly, because the excess is removed continuously and in small pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ipc_schema.config.archive import RetentionPolicy

_SLACK_NS: Final = 60 * 1_000_000_000
"""How far the newest message may lag behind before the wall clock is doubted. Stores accept messages
within 20 s (13/WAKU2-STORE), and host clocks differ."""


def excess(policy: RetentionPolicy, messages: int, size: int) -> int:
    """Return the number of oldest messages beyond capacity and size. A size is converted with the average
    message size."""
    too_many = 0
    if policy.messages is not None:
        too_many = messages - policy.messages
    if policy.bytes is not None and size > policy.bytes:
        too_many = max(too_many, -(-(size - policy.bytes) * messages // size))
    return max(0, too_many)


def kept_seconds(policy: RetentionPolicy, messages: int, size: int, span: float) -> float | None:
    """Return for how long messages are kept, about: as the policy says, or until they fill it at the present
    rate.

    `span`: seconds from the oldest message to the newest one. None: for ever, as far as is known.
    """
    fill = max(
        messages / policy.messages if policy.messages else 0.0, size / policy.bytes if policy.bytes else 0.0
    )
    times = [span / fill] if fill else []
    if policy.seconds is not None:
        times.append(policy.seconds)
    return min(times, default=None)


class RetentionClock:
    """The clock for message expiry. A wrong wall clock must not empty an archive.

    The host's clock may be days ahead at start, or be set so while the node runs. Hence time advances only as
    far as the newest message or this process's uptime prove, and never beyond the wall clock. Without new
    messages, downtime does not count: messages are then kept longer.
    """

    def __init__(self, wall: Callable[[], int], steady: Callable[[], int]) -> None:
        """Both in nanoseconds; `steady` is a monotonic clock."""
        self._wall = wall
        self._steady = steady
        self._began = wall() - steady()
        self._known: int | None = None
        """The proven time minus the reading of the steady clock."""

    def now(self, newest: int | None) -> int:
        """Return the current time. `newest` is the timestamp of the newest message, None if unknown."""
        steady = self._steady()
        passed = self._began + steady  # since the start, unaffected by steps of the wall clock
        shown = passed if newest is None else min(newest + _SLACK_NS, passed)
        if self._known is not None:
            shown = max(shown, self._known + steady)
        self._known = shown - steady
        return min(shown, self._wall())
