"""Printing shared by the commands: JSON for programs, and screens that are redrawn."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from logos_deploy.node.checkup import Finding, Level
from logos_deploy.text import one_line

_MARKS: Final = {Level.OK: "ok  ", Level.WARN: "warn", Level.FAIL: "FAIL"}


def print_json(value: object, *, indent: int | None = None) -> None:
    """Print one JSON document; without `indent` on one line."""
    print(to_json(value, indent=indent), flush=True)


def print_result(
    arguments: argparse.Namespace, value: object, text: str | Iterable[str], *, indent: int | None = None
) -> None:
    """Print the result of a command: JSON if `--json` asks for it, else text or lines."""
    if arguments.json:
        print_json(value, indent=indent)
    else:
        print(text if isinstance(text, str) else "\n".join(text))


def note(text: str) -> None:
    """Print a note to stderr: it is not part of the output."""
    print(f"-- {one_line(text)}", file=sys.stderr, flush=True)


def to_json(value: object, *, indent: int | None = None) -> str:
    """Return JSON text. Bytes become hex, dataclasses and records objects."""
    return json.dumps(value, indent=indent, default=_json_value, ensure_ascii=False)


def _json_value(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def clock_time(ns: int) -> str:
    """Return the local time of day with milliseconds; the number itself if it is not a valid time."""
    try:
        when = datetime.fromtimestamp(ns / 1e9, UTC).astimezone()
    except (OverflowError, ValueError, OSError):
        return f"{ns} ns"  # timestamps come from the sender: any number is possible
    return when.strftime("%H:%M:%S.") + f"{when.microsecond // 1000:03d}"


def as_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Format a line per finding, with advice below it."""
    for finding in findings:
        yield f"{_MARKS[finding.level]}  {finding.subject:<16}  {finding.text}"
        if finding.advice:
            yield f"{'':24}→ {finding.advice}"


class Screen:
    """Shows a text repeatedly: in place on a terminal, otherwise one block below the other."""

    def __init__(self) -> None:
        self._terminal = sys.stdout is not None and sys.stdout.isatty()
        self._lines = 0

    def show(self, text: str) -> None:
        """Replace the previous text."""
        if not self._terminal:
            print(text, end="\n\n", flush=True)
            return
        # home, clear each line to its end, then everything below: no flicker
        body = "".join(f"{line}\x1b[K\n" for line in text.splitlines())
        start = "\x1b[H" if self._lines else "\x1b[2J\x1b[H"
        self._lines = text.count("\n") + 1
        print(f"{start}{body}\x1b[J", end="", flush=True)
