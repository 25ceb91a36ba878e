"""Exponential back-off after failures. Pure, and the same in both processes."""

from __future__ import annotations

from typing import Final

__all__ = ["retry_delay"]

_STEPS: Final = 64
"""Bound of the exponent: days of failures must not overflow a float."""


def retry_delay(failures: int, start: float, factor: float, cap: float) -> float:
    """Return the delay in seconds: `start` after the first failure, times `factor` for each further one, up
    to `cap`."""
    return min(start * factor ** min(max(0, failures - 1), _STEPS), cap)
