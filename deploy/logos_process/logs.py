"""Logging of a process: standard library, one line per event that an operator cares about, to stderr.

How a line is worded stands in `log_format`. Writing never waits for the reader: see `output`.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

from logos_process.log_format import LogLevelError, fields, find_and_set_level, level_number, make_formatter
from logos_process.output import LineStream, LineWriter

__all__ = ["LogLevelError", "configure", "dropped", "fields", "flush", "say", "set_level"]

STDERR: Final = 2
_FLUSH_SECONDS: Final = 1.0


class _Handler(logging.Handler):
    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.put(self.format(record))
        except Exception:  # as logging's own handlers do: a bad line must not end what it is about
            self.handleError(record)


class _State:
    """The process's one log."""

    package = ""
    writer: LineWriter | None = None


def configure(package: str, level: str, log_format: str = "TEXT", descriptor: int = STDERR) -> None:
    """Send everything to `descriptor`: the lines of `package` from `level` on, libraries' from WARNING.

    `log_format` is TEXT or JSON. Everything that is written to `sys.stderr` goes the same way. Call it after
    the imports: libraries that configure logging when imported are overruled. Raises `LogLevelError`.
    """
    number = level_number(level)
    formatter = make_formatter(log_format, package)

    def report(count: int) -> str:
        text = "log lines were dropped: their reader was too slow, or they could not be written"
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
    """Let nothing of a library through whose own reports say less than ours."""
    logger = logging.getLogger(library)
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.CRITICAL)


def set_level(level: str, logger: str | None = None) -> str:
    """Change a level while running and return the name of the previous one; see `find_and_set_level`."""
    return find_and_set_level(_State.package, level, logger)


def say(line: str) -> None:
    """Write a bare line, without time and level: the last word of a process that cannot start."""
    if _State.writer is not None:
        _State.writer.put(line)
    elif sys.stderr is not None:  # closed before we were started
        sys.stderr.write(f"{line}\n")


def dropped() -> int:
    """Lines that were dropped since `configure`."""
    return _State.writer.dropped if _State.writer is not None else 0


def flush(seconds: float = _FLUSH_SECONDS) -> None:
    """Give the lines that wait a last chance, which takes `seconds` at most."""
    if _State.writer is not None:
        _State.writer.flush(seconds)
