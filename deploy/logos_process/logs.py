"""Logging of a process: standard library, one line per event of interest to an operator, to stderr.

`log_format` formats the lines. Writing never waits for the reader, see `output`.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

from logos_process.log_format import (
    LogLevelError,
    fields,
    find_and_set_level,
    level_name,
    level_number,
    make_formatter,
)
from logos_process.output import LineStream, LineWriter

__all__ = ["LogLevelError", "configure", "dropped", "fields", "flush", "level", "say", "set_level"]

STDERR: Final = 2
_FLUSH_SECONDS: Final = 1.0


class _Handler(logging.Handler):
    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.put(self.format(record))
        except Exception:  # like logging's own handlers: a bad line must not end its caller
            self.handleError(record)


class _State:
    """The process's single log."""

    package = ""
    writer: LineWriter | None = None


def configure(package: str, level: str, log_format: str = "TEXT", descriptor: int = STDERR) -> None:
    """Send all output to `descriptor`: lines of `package` from `level` up, those of libraries from WARNING.

    `log_format` is TEXT or JSON. Everything written to `sys.stderr` takes the same path. Call it after the
    imports, to override libraries that configure logging on import. Raise `LogLevelError`.
    """
    number = level_number(level)
    formatter = make_formatter(log_format, package)

    def report(count: int) -> str:
        text = "log lines were dropped: the reader was too slow, or they could not be written"
        record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None)
        record.__dict__.update(fields(count=count))
        return formatter.format(record)

    writer = LineWriter(descriptor, report=report)
    handler = _Handler(writer)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in (package, __package__):
        logging.getLogger(name).setLevel(number)
    logging.captureWarnings(True)
    if descriptor == STDERR:
        sys.stderr = LineStream(writer, descriptor)
    _State.package, _State.writer = package, writer


def silence(library: str) -> None:
    """Suppress a library whose messages add nothing to ours."""
    logger = logging.getLogger(library)
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.CRITICAL)


def set_level(level: str, logger: str | None = None) -> str:
    """Change a log level at runtime. Return the name of the previous one; see `find_and_set_level`."""
    return find_and_set_level(_State.package, level, logger)


def level() -> str:
    """Return the name of the level of the process's own log."""
    return level_name(logging.getLogger(_State.package).getEffectiveLevel())


def say(line: str) -> None:
    """Write a bare line, without time and level: the last words of a process that cannot start."""
    if _State.writer is not None:
        _State.writer.put(line)
    elif sys.stderr is not None:  # may have been closed before we started
        sys.stderr.write(f"{line}\n")


def dropped() -> int:
    """Return the number of lines dropped since `configure`."""
    return _State.writer.dropped if _State.writer is not None else 0


def flush(seconds: float = _FLUSH_SECONDS) -> None:
    """Wait up to `seconds` for queued lines to be written."""
    if _State.writer is not None:
        _State.writer.flush(seconds)
