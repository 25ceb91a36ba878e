"""The host's own time: it runs while the host sleeps, and no step of the wall clock moves it.

What decides by it is `ipc_schema.steady`, which is pure.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Final

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


# Asked twice for each message: no function of ours around it.
boot_ns: Final = partial(time.clock_gettime_ns, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Return the nanoseconds since the host started, those in which it slept included (where the system has
such a clock)."""


def boot_id() -> str:
    """Return the name of the host's start that `boot_ns` counts from; "" if it is not known."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
