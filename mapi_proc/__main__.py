"""`logos-mapi` and `python -m mapi_proc`: configuration in, exit code out.

0: asked to stop. 70: a part failed. 78: cannot start as configured (also: another process owns the data
directory, the disk is read-only, the database is from a later version).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from ipc_schema.config.mapi import MAPI_SCHEMA, MapiConfig, load_mapi_config
from ipc_schema.config.options import ConfigError
from ipc_schema.config.sources import add_arguments, config_file_of, parse_toml

__all__ = ["main"]

EXIT_FAILED: Final = 70
EXIT_CONFIG: Final = 78
PROGRAM: Final = "logos-mapi"
STOP_SECONDS: Final = 5


class _Parser(argparse.ArgumentParser):
    """Refuses with the exit code that tells a supervisor not to try again."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_CONFIG, f"{self.prog}: {message}\n")


def _configure(arguments: Sequence[str] | None) -> MapiConfig:
    """The configuration of flags, environment and file. Raises `ConfigError`."""
    parser = _Parser(prog=PROGRAM, description="The Messaging API of a Waku node.", allow_abbrev=False)
    add_arguments(parser, MAPI_SCHEMA)
    flags = vars(parser.parse_args(arguments))
    path = config_file_of(MAPI_SCHEMA, flags, os.environ)
    file = None
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("config-file", f"cannot read {path}: {error}") from error
        file = parse_toml(text, path)
    return load_mapi_config(flags=flags, environ=os.environ, file=file)


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
    try:
        return uvloop.run(_serve(config, parent))
    except (HostError, DatabaseError, sqlite3.Error, OSError) as error:
        logging.getLogger(__name__).critical("cannot start: %s", error)
        return EXIT_CONFIG


if __name__ == "__main__":
    sys.exit(main())
