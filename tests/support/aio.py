"""Run an async test under its loop, with a deadline: a test that waits for an event never hangs the suite.

The deadline only ends what hangs. On a busy machine a test takes ten times longer.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from trio.abc import Clock

AsyncTest = Callable[..., Awaitable[None]]


def trio_test(
    deadline: float = 60.0, clock: Callable[[], Clock] | None = None
) -> Callable[[AsyncTest], Callable[..., None]]:
    """Run an async test function under trio; fails after `deadline` seconds of its clock."""

    def wrap(function: AsyncTest) -> Callable[..., None]:
        @functools.wraps(function)
        def runner(*args: Any, **kwargs: Any) -> None:
            async def main() -> None:
                with trio.fail_after(deadline):
                    await function(*args, **kwargs)

            trio.run(main, clock=clock() if clock is not None else None)

        return runner

    return wrap


def asyncio_test(deadline: float = 60.0) -> Callable[[AsyncTest], Callable[..., None]]:
    """Run an async test function under asyncio; fails after `deadline` seconds."""

    def wrap(function: AsyncTest) -> Callable[..., None]:
        @functools.wraps(function)
        def runner(*args: Any, **kwargs: Any) -> None:
            async def main() -> None:
                async with asyncio.timeout(deadline):
                    await function(*args, **kwargs)

            asyncio.run(main())

        return runner

    return wrap
