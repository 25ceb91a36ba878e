"""The children's end of the JSON lines: events out, commands in."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import trio


def emit(event: str, **values: object) -> None:
    """Tell the driver."""
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


def cpu_us() -> float:
    """µs of CPU that this process has used, user and system, all threads."""
    return time.process_time_ns() / 1000


async def commands() -> AsyncIterator[dict[str, Any]]:
    """The driver's commands, on trio, until standard input ends."""
    rest = b""
    async with trio.lowlevel.FdStream(os.dup(0)) as stream:
        async for chunk in stream:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield json.loads(line)
