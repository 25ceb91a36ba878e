"""The end of a kernel together with the process that started it.

A parent that runs a kernel as its child leaves it the reading end of a pipe, whose writing end only the
parent has, and names the descriptor in `LOGOS_LIFELINE_FD`. When the parent is gone, however it ended, the
pipe is at its end. (The system's own signal for a dead parent follows the thread that forked, not the
process.)
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final

import trio

from ipc_schema.config.options import ConfigError

__all__ = ["LIFELINE", "take_lifeline", "wait_for_parent"]

LIFELINE: Final = "LOGOS_LIFELINE_FD"


def take_lifeline(environ: MutableMapping[str, str]) -> int | None:
    """The descriptor that the parent left, None without one. It is taken out of `environ`, and no child of
    ours inherits it. Raises ConfigError when it is no open descriptor.
    """
    given = environ.pop(LIFELINE, None)
    if given is None:
        return None
    try:
        descriptor = int(given)
        os.set_inheritable(descriptor, False)
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigError(LIFELINE, f"{given!r} is no open descriptor") from error
    return descriptor


async def wait_for_parent(descriptor: int) -> None:
    """Return when the parent is gone (or has written something, which asks for the same)."""
    await trio.lowlevel.wait_readable(descriptor)
