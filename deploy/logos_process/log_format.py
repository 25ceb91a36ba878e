"""The format of log lines: pure formatting, no handlers, no configuration.

Lines carry named values (`log.info("peer connected", extra=fields(peer=…, address=…))`). Message payloads,
keys and signatures are never passed to a logger, at any level.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any, Final

from ipc_schema.config.kinds import LOG_LEVELS

_SHORT: Final = {5: "TRC", 10: "DBG", 20: "INF", 25: "NTC", 30: "WRN", 40: "ERR", 50: "FAT"}
_FIELDS: Final = "named_values"


class LogLevelError(ValueError):
    """The level or logger does not exist."""


def level_number(text: str) -> int:
    """Return the `logging` level for one of nwaku's level names (or WARNING). Raise `LogLevelError`."""
    try:
        return LOG_LEVELS[{"WARNING": "WARN"}.get(text.upper(), text.upper())]
    except KeyError:
        raise LogLevelError(f"unknown log level {text!r}: one of {', '.join(LOG_LEVELS)}") from None


def level_name(number: int) -> str:
    """Return the name of the lowest level at or above a number."""
    return next((name for name, value in LOG_LEVELS.items() if value >= number), "FATAL")


def fields(**values: Any) -> dict[str, Any]:
    """Return named values of a line, to be passed as `extra=`."""
    return {_FIELDS: values}


def _stamp(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


def _plain(value: Any) -> str:
    text = str(value)
    # Text from peers (agents, reasons) may contain anything: never pass on line breaks or terminal escapes.
    plain = text and text.isprintable() and not any(c in text for c in ' "=')
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())


class TextFormatter(logging.Formatter):
    """`time LVL message key=value … logger=name`; `root` is stripped from the names of a package's
    loggers."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self._prefix = root + "."

    def format(self, record: logging.LogRecord) -> str:
        """Format one line; a traceback follows on further lines."""
        level = _SHORT.get(record.levelno, record.levelname)
        parts = [_stamp(record), level, record.getMessage()]
        parts += [f"{key}={_plain(value)}" for key, value in getattr(record, _FIELDS, {}).items()]
        parts.append(f"logger={record.name.removeprefix(self._prefix)}")
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ts, level, logger, msg, and the named values."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self._prefix = root + "."

    def format(self, record: logging.LogRecord) -> str:
        """Format one line; a traceback is in the key `traceback`."""
        out: dict[str, Any] = {
            "ts": _stamp(record),
            "level": _SHORT.get(record.levelno, record.levelname),
            "logger": record.name.removeprefix(self._prefix),
            "msg": record.getMessage(),
        }
        out.update(getattr(record, _FIELDS, {}))
        if record.exc_info:
            out["traceback"] = self.formatException(record.exc_info)
        return json.dumps(out, ensure_ascii=False, default=str)


def make_formatter(log_format: str, root: str) -> logging.Formatter:
    """Return the formatter for the option `log-format` (TEXT or JSON) and a package's loggers."""
    return JsonFormatter(root) if log_format.upper() == "JSON" else TextFormatter(root)


def find_and_set_level(root: str, level: str, logger: str | None = None) -> str:
    """Change a log level at runtime. Return the name of the previous one.

    `logger` is a name as shown in the lines ("relay.service"), a library's logger ("libp2p"), or None for the
    whole of `root`. Raise `LogLevelError`, also for a logger that does not exist, so that typos surface.
    """
    number = level_number(level)
    name = logger or root
    for candidate in (name, f"{root}.{name}"):
        if candidate in logging.root.manager.loggerDict or candidate == root:
            target = logging.getLogger(candidate)
            previous = level_name(target.getEffectiveLevel())
            target.setLevel(number)
            return previous
    raise LogLevelError(f"unknown logger {logger!r}")
