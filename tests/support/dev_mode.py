"""What a program run by `python -X dev` writes to stderr."""

from __future__ import annotations

import re

_SLOW = re.compile(r"Executing <.*> took \d+\.\d+ seconds$")


def complaints(errors: str) -> list[str]:
    """Return the lines but for those on callbacks over 100 ms: the machine's load decides on these."""
    return [line for line in errors.splitlines() if not _SLOW.match(line)]
