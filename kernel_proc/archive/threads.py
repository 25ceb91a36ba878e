"""Run blocking work in a worker thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")


async def in_thread(work: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
    """Run `work` in a thread. Cancellation abandons the wait; the limiter's token stays taken until the
    work ends."""
    return await trio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True)
