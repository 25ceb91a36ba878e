"""Run a command's coroutine; signals cancel it gracefully."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from logos_deploy.exits import Exit


def run_interruptible(work: Coroutine[Any, Any, int], *, interrupted: Exit = Exit.INTERRUPTED) -> int:
    """Run to the end. INT and TERM cancel it (its `finally` clauses run), and the result is `interrupted`."""

    async def main() -> int:
        task = asyncio.current_task()
        assert task is not None
        caught = False

        def stop() -> None:
            nonlocal caught
            caught = True
            task.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        try:
            return await work
        except asyncio.CancelledError:
            if not caught:
                raise
            return interrupted

    return asyncio.run(main())
