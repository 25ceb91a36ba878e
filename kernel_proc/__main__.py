"""`logos-kernel` and `python -m kernel_proc`: configuration in, exit code out.

0: asked to stop. 70: a part failed. 78: cannot start as configured (also: another node owns the data
directory, a port is taken, the disk is full or read-only).
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from ipc_schema.config.command_line import EXIT_CONFIG, CommandLine
from ipc_schema.config.kernel import KERNEL_SCHEMA, KernelConfig, load_kernel_config
from ipc_schema.config.options import ConfigError
from kernel_proc.version import version

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["collect_less", "main"]

PROGRAM: Final = "logos-kernel"
STOP_SECONDS: Final = 4


def _configure(arguments: Sequence[str] | None) -> KernelConfig:
    """The configuration of flags, environment and file. Raises `ConfigError`."""
    command = CommandLine(PROGRAM, version(), KERNEL_SCHEMA, "A Waku node without a Messaging API.")
    flags, environ, file = command.sources(arguments, os.environ, _read)
    return load_kernel_config(flags=flags, environ=environ, file=file)


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def _give_up(_number: int, _frame: FrameType | None) -> NoReturn:
    logging.getLogger(__name__).critical("stopping took too long")
    os._exit(70)


def collect_less() -> None:
    """Look for garbage cycles less often: the message path makes many short-lived tuples and no cycles, and
    looking after every 700 of them costs a tenth of the relay's time."""
    gc.set_threshold(50_000, 20, 50)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a kernel until it is stopped; returns the exit code."""
    try:
        config = _configure(arguments)
    except ConfigError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return EXIT_CONFIG
    # Only now: a wrong option is refused in no time, and libp2p must be imported before logging is set up.
    import trio

    from kernel_proc import logs
    from kernel_proc.lifeline import take_lifeline
    from kernel_proc.node import Node, StartError

    try:
        parent = take_lifeline(os.environ)
    except ConfigError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return EXIT_CONFIG
    collect_less()
    logs.configure(config.log_level, config.log_format)
    log = logging.getLogger(__name__)
    for warning in config.warnings:
        log.warning(warning)

    signal.signal(signal.SIGALRM, _give_up)

    async def run() -> int:
        # Stopping must not take longer than a supervisor waits, whatever hangs.
        return await Node(config).run(
            signals=True, parent=parent, stopping=lambda: signal.alarm(STOP_SECONDS)
        )

    try:
        return trio.run(run)
    except StartError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return EXIT_CONFIG


if __name__ == "__main__":
    sys.exit(main())
