"""Logging of the kernel: standard library, one line per event that an operator cares about, to stderr.

`configure` must run after libp2p has been imported, because that import configures logging itself.

Lines carry named values (`log.info("peer joined", extra=fields(peer=..., address=...))`). Message payloads,
keys and signatures are never passed to a logger, at any level.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, Final, TextIO

__all__ = ["LEVELS", "LogLevelError", "configure", "fields", "set_level"]

TRACE: Final = 5

LEVELS: Final[Mapping[str, int]] = {
    "TRACE": TRACE,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "NOTICE": 25,
    "WARN": logging.WARNING,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "FATAL": logging.CRITICAL,
}
"""nwaku's names of levels, and Python's WARNING."""

_SHORT: Final = {5: "TRC", 10: "DBG", 20: "INF", 25: "NTC", 30: "WRN", 40: "ERR", 50: "FAT"}
_ROOT: Final = "kernel_proc"
_FIELDS: Final = "kernel_fields"


class LogLevelError(ValueError):
    """No such level or logger."""


def fields(**values: Any) -> dict[str, Any]:
    """Named values of a line, to be passed as `extra=`."""
    return {_FIELDS: values}


def _name(record: logging.LogRecord) -> str:
    return record.name.removeprefix(_ROOT + ".")


def _stamp(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


class TextFormatter(logging.Formatter):
    """`time LVL message  logger key=value …`"""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows on further lines."""
        level = _SHORT.get(record.levelno, record.levelname)
        parts = [_stamp(record), level, record.getMessage()]
        parts += [f"{key}={_plain(value)}" for key, value in getattr(record, _FIELDS, {}).items()]
        parts.append(f"logger={_name(record)}")
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts, level, logger, msg, and the named values."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback is the key `traceback`."""
        out: dict[str, Any] = {
            "ts": _stamp(record),
            "level": _SHORT.get(record.levelno, record.levelname),
            "logger": _name(record),
            "msg": record.getMessage(),
        }
        out.update(getattr(record, _FIELDS, {}))
        if record.exc_info:
            out["traceback"] = self.formatException(record.exc_info)
        return json.dumps(out, ensure_ascii=False, default=str)


def _plain(value: Any) -> str:
    text = str(value)
    # Texts of peers (agents, reasons) may hold anything: no line break or terminal escape may pass.
    plain = text and text.isprintable() and not any(c in text for c in ' "=')
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())


def _level(text: str) -> int:
    try:
        return LEVELS[text.upper()]
    except KeyError:
        raise LogLevelError(f"unknown log level {text!r}: one of {', '.join(LEVELS)}") from None


def configure(level: str, log_format: str = "TEXT", stream: TextIO | None = None) -> None:
    """Send everything to `stream` (stderr): the kernel's own lines from `level` on, libraries' from WARNING.

    `log_format` is TEXT or JSON. Raises `LogLevelError`.
    """
    number = _level(level)
    for value, short in _SHORT.items():
        logging.addLevelName(value, short)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format.upper() == "JSON" else TextFormatter())
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
    """Change a level while running and return the name of the previous one.

    `logger` is a name as it stands in the lines ("relay.service"), a library's logger ("libp2p"), or None for
    the whole kernel. Raises `LogLevelError`; loggers that do not exist are refused, so that a typing error
    shows.
    """
    number = _level(level)
    name = logger or _ROOT
    known = logging.root.manager.loggerDict
    for candidate in (name, f"{_ROOT}.{name}"):
        if candidate in known or candidate == _ROOT:
            target = logging.getLogger(candidate)
            previous = _canonical(target.getEffectiveLevel())
            target.setLevel(number)
            return previous
    raise LogLevelError(f"unknown logger {logger!r}")


def _canonical(number: int) -> str:
    for name, value in LEVELS.items():
        if value >= number:
            return name
    return "FATAL"
