"""Logging of the Messaging API: standard library, to stderr, one line per event that an operator
cares about.
"""

from __future__ import annotations

import logging
import sys
from typing import Final, TextIO

from ipc_schema.logs import find_and_set_level, level_number, make_formatter

__all__ = ["configure", "set_level"]

_ROOT: Final = "mapi_proc"


def configure(level: str, log_format: str = "TEXT", stream: TextIO | None = None) -> None:
    """Send everything to `stream` (stderr): our own lines from `level` on, libraries' from WARNING.

    `log_format` is TEXT or JSON. Raises `LogLevelError`.
    """
    number = level_number(level)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(make_formatter(log_format, _ROOT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(_ROOT).setLevel(number)
    logging.captureWarnings(True)


def set_level(level: str, logger: str | None = None) -> str:
    """Change a level while running and return the name of the previous one; see `find_and_set_level`."""
    return find_and_set_level(_ROOT, level, logger)
