"""`logos-mapi` and `python -m mapi_proc`: configuration in, exit code out.

0: asked to stop. 70: a part failed. 78: cannot start as configured (also: another process owns the data
directory, the disk is read-only, the database is from a later version).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ipc_schema.config.command_line import EXIT_CONFIG, CommandLine
from ipc_schema.config.mapi import MAPI_SCHEMA, MapiConfig, load_mapi_config
from ipc_schema.config.options import ConfigError
from mapi_proc.version import version

__all__ = ["main"]

EXIT_FAILED: Final = 70
PROGRAM: Final = "logos-mapi"
STOP_SECONDS: Final = 5


def _configure(arguments: Sequence[str] | None) -> MapiConfig:
    """The configuration of flags, environment and file. Raises `ConfigError`."""
    command = CommandLine(PROGRAM, version(), MAPI_SCHEMA, "The Messaging API of a Waku node.")
    flags, environ, file = command.sources(arguments, os.environ, _read)
    return load_mapi_config(flags=flags, environ=environ, file=file)


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


async def _serve(config: MapiConfig, parent: int | None) -> int:
    from mapi_proc.lifeline import watch_lifeline
    from mapi_proc.service import MapiService

    service = MapiService(config)
    ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def end(error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result(error)

    service.on_end = end
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, None)
    if parent is not None:
        watch_lifeline(loop, parent, lambda: end(None))
    await service.start()
    try:
        error = await ended
    finally:
        # Stopping must not take longer than a supervisor waits, whatever hangs.
        signal.alarm(STOP_SECONDS)
        await service.stop()
        signal.alarm(0)
    return EXIT_FAILED if error is not None else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a Messaging API until it is stopped; returns the exit code."""
    try:
        config = _configure(arguments)
    except ConfigError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return EXIT_CONFIG
    import uvloop

    from mapi_proc import logs
    from mapi_proc.database import DatabaseError
    from mapi_proc.host import HostError
    from mapi_proc.lifeline import take_lifeline

    try:
        parent = take_lifeline(os.environ)
    except ConfigError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return EXIT_CONFIG

    logs.configure(config.log_level, config.log_format)
    log = logging.getLogger(__name__)
    for warning in config.warnings:
        log.warning(warning)
    try:
        return uvloop.run(_serve(config, parent))
    except (HostError, DatabaseError, sqlite3.Error, OSError) as error:
        log.critical("cannot start: %s", error)
        return EXIT_CONFIG


if __name__ == "__main__":
    sys.exit(main())
