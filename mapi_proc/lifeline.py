"""The end of a Messaging API together with the process that started it.

A parent that runs one as its child leaves it the reading end of a pipe, whose writing end only the parent
has, and names the descriptor in `LOGOS_LIFELINE_FD`. When the parent is gone, however it ended, the pipe is
at its end. (The system's own signal for a dead parent follows the thread that forked, not the process.)
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, MutableMapping
from typing import Final

from ipc_schema.config.options import ConfigError

__all__ = ["LIFELINE", "take_lifeline", "watch_lifeline"]

LIFELINE: Final = "LOGOS_LIFELINE_FD"


def take_lifeline(environ: MutableMapping[str, str]) -> int | None:
    """The descriptor that the parent left, None without one. It is taken out of `environ`, and no child of
    ours inherits it. Raises ConfigError when it is no pipe.
    """
    given = environ.pop(LIFELINE, None)
    if given is None:
        return None
    try:
        descriptor = int(given)
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            raise ConfigError(LIFELINE, f"{given!r} is no pipe")
        os.set_inheritable(descriptor, False)
    except ConfigError:
        raise
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigError(LIFELINE, f"{given!r} is no open descriptor") from error
    return descriptor


def watch_lifeline(loop: asyncio.AbstractEventLoop, descriptor: int, gone: Callable[[], None]) -> None:
    """Call `gone`, once, when the parent is gone (or has written something, which asks for the same)."""

    def look() -> None:
        loop.remove_reader(descriptor)
        gone()

    loop.add_reader(descriptor, look)
