"""What the methods that take many have in common: rows in the body, and a blob for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import MAX_BLOBS

__all__ = ["MAX_ROWS", "check_blobs", "usual_rows"]

MAX_ROWS: Final = MAX_BLOBS
"""Most rows of one request, each of which has a blob."""


def usual_rows(rows: object, is_usual: Callable[[Any], bool]) -> tuple[Any, ...] | None:
    """Return the rows as tuples if all have the usual form; None if the annotations must check them, which
    takes longer and words the error."""
    if type(rows) is list and len(rows) <= MAX_ROWS and all(map(is_usual, rows)):
        return tuple(map(tuple, rows))
    return None


def check_blobs(blobs: Sequence[bytes], rows: int, what: str, most_bytes: int) -> None:
    """Raise `IpcError`: `bad_request` unless each row has its blob, `too_large` if they are too large
    together. `what`: name of the rows."""
    if len(blobs) != rows:
        raise IpcError(ErrorCode.BAD_REQUEST, f"{len(blobs)} blobs for {rows} {what}, one is for each")
    size = sum(map(len, blobs))
    if size > most_bytes:
        raise IpcError(ErrorCode.TOO_LARGE, f"{size} bytes of payloads, at most {most_bytes} are allowed")
