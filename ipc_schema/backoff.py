"""How long to wait after the n-th failure. Pure, and the same in both processes."""

from __future__ import annotations

from typing import Final

__all__ = ["retry_delay"]

_STEPS: Final = 64
"""The exponent's bound: what fails for days must not overflow a float."""


def retry_delay(failures: int, start: float, factor: float, cap: float) -> float:
    """`start` seconds after the first failure, `factor` times as long after each further one, up to `cap`."""
    return min(start * factor ** min(max(0, failures - 1), _STEPS), cap)
