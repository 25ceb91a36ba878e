"""From the command line of a process to its exit code."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ipc_schema.config.common import BaseConfig
from ipc_schema.config.options import ConfigError, Schema
from logos_process import logs
from logos_process.command_line import CommandLine
from logos_process.descriptors import LEAST, raise_descriptor_limit, too_few_files
from logos_process.exits import ExitCode, StartError
from logos_process.output import reserve_standard_descriptors
from logos_process.parent_watch import take_parent, watch_parent
from logos_process.stopping import StopLimit
from logos_process.version import version

log = logging.getLogger(__name__)


C = TypeVar("C", bound=BaseConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process(Generic[C]):
    """One kind of process."""

    program: str
    """Its command, such as `logos-kernel`."""
    description: str
    """One sentence for `--help`."""
    package: str
    """The root of its loggers."""
    schema: Schema[Any]
    load: Callable[..., C]
    """Build the configuration from `flags`, `environ` and `file`. Raise `ConfigError`."""
    prepare: Callable[[], object] = lambda: None
    """Expensive imports, performed once the configuration is known to be valid."""
    run: Callable[[C, StopLimit], int]
    """Run until stopped and return the exit code; start the limit when the shutdown begins. Raise
    `StartError`."""
    stop_seconds: float = 5.0
    """Maximum duration of the shutdown: less than supervisors wait before they kill."""


def run_process(process: Process[C], arguments: Sequence[str] | None = None) -> int:
    """Run a process until it is stopped. Return the exit code. Errors are reported in one line on stderr."""
    reserve_standard_descriptors()
    try:
        command = CommandLine(process.program, version(), process.schema, process.description)
        flags, environ, file = command.sources(arguments, os.environ)
        config = process.load(flags=flags, environ=environ, file=file)
        parent = take_parent(os.environ)
    except ConfigError as error:
        logs.say(f"{process.program}: {error}")
        return ExitCode.CONFIG
    descriptors = raise_descriptor_limit()
    if 0 <= descriptors < LEAST:  # below 0: no limit
        logs.say(f"{process.program}: {too_few_files(descriptors)}")
        return ExitCode.CONFIG
    process.prepare()
    logs.configure(process.package, config.log_level, config.log_format)
    for warning in config.warnings:
        log.warning(warning)
    if parent is not None:
        watch_parent(parent, _say_parent_gone)
    limit = StopLimit(process.stop_seconds)
    try:
        return process.run(config, limit)
    except StartError as error:
        logs.say(f"{process.program}: {error}")
        return error.code
    except Exception:
        log.critical("failed", exc_info=True)
        return ExitCode.FAILED
    finally:
        logs.flush()
        limit.over()


def _say_parent_gone() -> None:
    log.warning("the parent process has ended")
    logs.flush(0.2)  # before its loop runs, SIGTERM ends the process immediately
