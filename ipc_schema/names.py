"""Names of consumers (kernel) and of durable apps (Messaging API)."""

from __future__ import annotations

import re
from typing import Final

from ipc_schema.errors import ErrorCode, IpcError

__all__ = ["MAX_NAME", "NAME_PATTERN", "check_name"]

MAX_NAME: Final = 64
NAME_PATTERN: Final = re.compile(r"[a-z0-9._-]{1,64}")
"""Matches a whole name (use `fullmatch`)."""


def check_name(name: str) -> str:
    """Return the name, or raise `IpcError` (`bad_request`) if it is invalid; TypeError if not a string."""
    if not isinstance(name, str):
        raise TypeError(f"name: str, not {type(name).__name__}")
    if NAME_PATTERN.fullmatch(name) is None:
        shown = name if len(name) <= MAX_NAME else name[:MAX_NAME] + "…"
        raise IpcError(
            ErrorCode.BAD_REQUEST, f"name: {shown!r} does not match [a-z0-9._-] in 1 to {MAX_NAME} characters"
        )
    return name
