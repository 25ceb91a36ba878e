"""The number of descriptors that this process may still open."""

from __future__ import annotations

import os
import resource
from typing import Final

_ENOUGH: Final = 65_536
"""Returned if the system sets no limit."""


def free_descriptors() -> int:
    """Return how many descriptors can still be opened under the soft limit (RLIMIT_NOFILE)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _ENOUGH
    try:
        return soft - len(os.listdir("/dev/fd"))  # noqa: PTH208 - 20 times as fast, and it runs per connection
    except OSError:
        return 0  # not even one left to list them
