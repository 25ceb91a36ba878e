"""What the client's tests share: both event loops, and waiting for a condition with a deadline."""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.support.aio import AsyncTest

RUNNERS: dict[str, Callable[..., Any]] = {"asyncio": asyncio.run, "uvloop": uvloop.run}


def both_loops(deadline: float = 60.0) -> Callable[[AsyncTest], Callable[..., None]]:
    """Run an async test on plain asyncio and again on uvloop, each within `deadline` seconds."""

    def wrap(function: AsyncTest) -> Callable[..., None]:
        def runner(loop: str, *args: Any, **kwargs: Any) -> None:
            async def main() -> None:
                async with asyncio.timeout(deadline):
                    await function(*args, **kwargs)

            RUNNERS[loop](main())

        functools.update_wrapper(runner, function)
        del runner.__wrapped__  # type: ignore[attr-defined]  # pytest would read the inner signature
        marked: Callable[..., None] = pytest.mark.parametrize("loop", list(RUNNERS))(runner)
        return marked

    return wrap


async def until(condition: Callable[[], bool], deadline: float = 30.0, what: str = "condition") -> None:
    """Give the loop turns until `condition()` holds; fails after `deadline` seconds."""
    end = asyncio.get_running_loop().time() + deadline
    while not condition():
        if asyncio.get_running_loop().time() > end:
            pytest.fail(f"not within {deadline} s: {what}")
        await asyncio.sleep(0.002)


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory with a path short enough for ipc sockets (107 bytes), which pytest's own may exceed."""
    with tempfile.TemporaryDirectory(prefix="lc") as name:
        yield Path(name)
