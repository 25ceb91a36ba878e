"""Logging of the kernel: standard library, one line per event that an operator cares about, to stderr.

`configure` must run after libp2p has been imported, because that import configures logging itself. How a line
is worded stands in `ipc_schema.logs`.
"""

from __future__ import annotations

import logging
import sys
from typing import Final, TextIO

from ipc_schema.logs import LogLevelError, fields, find_and_set_level, level_number, make_formatter

__all__ = ["LogLevelError", "configure", "fields", "set_level"]

_ROOT: Final = "kernel_proc"


def configure(level: str, log_format: str = "TEXT", stream: TextIO | None = None) -> None:
    """Send everything to `stream` (stderr): the kernel's own lines from `level` on, libraries' from WARNING.

    `log_format` is TEXT or JSON. Raises `LogLevelError`.
    """
    number = level_number(level)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(make_formatter(log_format, _ROOT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(_ROOT).setLevel(number)
    # libp2p switches propagation off and reports each failed dial or reset stream as an error; what an
    # operator must know of those, the kernel says itself.
    library = logging.getLogger("libp2p")
    library.handlers.clear()
    library.propagate = True
    library.setLevel(logging.CRITICAL)
    logging.captureWarnings(True)


def set_level(level: str, logger: str | None = None) -> str:
    """Change a level while running and return the name of the previous one; see `find_and_set_level`."""
    return find_and_set_level(_ROOT, level, logger)
