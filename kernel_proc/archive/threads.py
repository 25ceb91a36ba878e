"""Blocking work in a worker thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

__all__ = ["in_thread"]

T = TypeVar("T")


async def in_thread(work: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
    """Run it. Who is cancelled does not wait for its end; the limiter's token stays taken until then."""
    return await trio.to_thread.run_sync(
        work,
        limiter=limiter,
        abandon_on_cancel=True,  # type: ignore[call-arg]  # the stubs that py-libp2p brings know its old name
    )
