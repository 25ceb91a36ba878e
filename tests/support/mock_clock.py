"""Run an async test under trio with a clock that jumps: an hour of waiting takes no time."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from trio.testing import MockClock


def mock_clock_test(function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Whenever every task waits, the clock goes on to the next deadline. Not for tests with sockets."""

    @functools.wraps(function)
    def runner(*args: Any, **kwargs: Any) -> None:
        async def main() -> None:
            await function(*args, **kwargs)

        trio.run(main, clock=MockClock(autojump_threshold=0))

    return runner
