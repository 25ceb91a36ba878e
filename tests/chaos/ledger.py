"""Ledgers: files of one JSON object a line, only ever appended to.

A process may die at any byte: what it has written to the page cache stays, so a line may be torn only where
the write itself was cut. The next writer of that file begins on a new line, and a reader counts what it
cannot read.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

PHASE: Final = "phase.json"
"""When sending begins and ends; written once all processes are up."""


class Ledger:
    """The writing end. Every line has `at` (unix seconds) and `what`."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def write(self, what: str, **values: object) -> None:
        """Append a line; it outlives the process, not yet the host."""
        line = json.dumps({"at": round(time.time(), 4), "what": what, **values}, separators=(",", ":"))
        data = line.encode() + b"\n"
        if os.write(self._file, data) != len(data):
            raise OSError("a ledger's line was cut: is the disk full?")

    def sync(self) -> None:
        """Return when everything written is on the disk."""
        os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


class Lines(NamedTuple):
    """What a ledger holds."""

    lines: list[dict[str, Any]]
    torn: int


def read_ledger(path: Path) -> Lines:
    """Read a ledger; one that is not there is empty."""
    if not path.exists():
        return Lines([], 0)
    lines: list[dict[str, Any]] = []
    torn = 0
    for text in path.read_bytes().splitlines():
        if not text:
            continue
        try:
            lines.append(json.loads(text))
        except ValueError:
            torn += 1
    return Lines(lines, torn)


def phase_of(directory: Path) -> tuple[float, float] | None:
    """When sending begins and ends (unix seconds); None: not decided yet."""
    path = directory / PHASE
    if not path.exists():
        return None
    begin, end = json.loads(path.read_text(encoding="ascii"))
    return begin, end
