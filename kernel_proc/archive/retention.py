"""Retention policies: how old, how many and how large the archive may become.

The text is nwaku's `store-message-retention-policy`: a list of `time:<seconds>`, `capacity:<messages>` and
`size:<number><B|KB|MB|GB>`, separated by `;`, each kind at most once; `none` or nothing keeps everything.
nwaku trims at 1.3 times a capacity and drops a fifth of all rows when a size is exceeded; here the bounds are
kept as they are written, since what is too much is removed in small pieces and all the time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from kernel_proc.archive.api import ArchiveConfigError

__all__ = ["DEFAULT_RETENTION", "RetentionPolicy", "excess", "parse_retention"]

DEFAULT_RETENTION: Final = "time:172800"
"""Two days, nwaku's default."""

_UNITS: Final = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}
_SIZE: Final = re.compile(r"([0-9]{1,15}(?:[.][0-9]{1,9})?) *([a-z]+)", re.IGNORECASE)
_NUMBER: Final = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Bounds of the archive; None: no such bound."""

    seconds: int | None = None
    messages: int | None = None
    bytes: int | None = None

    def __str__(self) -> str:
        parts = []
        if self.seconds is not None:
            parts.append(f"time:{self.seconds}")
        if self.bytes is not None:
            parts.append(f"size:{self.bytes}B")
        if self.messages is not None:
            parts.append(f"capacity:{self.messages}")
        return ";".join(parts) or "none"


def parse_retention(text: str) -> RetentionPolicy:
    """Read a policy. Raises `ArchiveConfigError` with a text for the operator."""
    found: dict[str, int] = {}
    if text.strip().lower() not in ("", "none"):
        for part in text.split(";"):
            kind, colon, value = part.strip().partition(":")
            name = kind.strip().lower()
            if not colon or name not in ("time", "capacity", "size"):
                raise ArchiveConfigError(
                    f"retention policy {part.strip()!r}: time:<seconds>, capacity:<messages> or size:<n>MB"
                )
            if name in found:
                raise ArchiveConfigError(f"retention policy {text!r}: {name} stands twice")
            found[name] = _size(value.strip()) if name == "size" else _count(name, value.strip())
    return RetentionPolicy(found.get("time"), found.get("capacity"), found.get("size"))


def _count(name: str, value: str) -> int:
    if _NUMBER.fullmatch(value) is None or int(value) == 0:
        raise ArchiveConfigError(f"retention policy {name}:{value}: a whole number above 0 is needed")
    return int(value)


def _size(value: str) -> int:
    match = _SIZE.fullmatch(value)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ArchiveConfigError(f"retention policy size:{value}: a number and MB or GB are needed")
    size = int(float(match[1]) * unit)
    if size < 1:
        raise ArchiveConfigError(f"retention policy size:{value}: more than 0 is needed")
    return size


def excess(policy: RetentionPolicy, messages: int, size: int) -> int:
    """How many of the oldest messages are too many by capacity and size; for a size, by their average."""
    too_many = 0
    if policy.messages is not None:
        too_many = messages - policy.messages
    if policy.bytes is not None and size > policy.bytes:
        too_many = max(too_many, -(-(size - policy.bytes) * messages // size))
    return max(0, too_many)
