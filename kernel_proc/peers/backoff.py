"""When to dial again: exponential back-off with jitter, per address. Pure."""

from __future__ import annotations

from random import Random
from typing import Final

from ipc_schema.backoff import retry_delay

__all__ = ["DialBackoff"]

FIRST: Final = 1.0
HIGHEST: Final = 60.0
STABLE_AFTER: Final = 30.0
"""Seconds of connection after which an earlier row of failures is forgotten."""


class DialBackoff:
    """Delays before the next dial of one address, in seconds: 1, 2, 4 … 60, each ± 20 %.

    nwaku waits 120 s after the first failure and gives an address up after five. These addresses were
    configured by an operator: they are never given up, and while *this* node is offline a long delay would
    only punish the peers for it.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._failures = 0

    @property
    def failures(self) -> int:
        """Dials and short-lived connections in a row."""
        return self._failures

    def failed(self) -> float:
        """A dial failed: how long to wait."""
        self._failures += 1
        return retry_delay(self._failures, FIRST, 2.0, HIGHEST) * self._rng.uniform(0.8, 1.2)

    def lost(self, lasted: float) -> float:
        """A connection ended after `lasted` seconds: how long to wait."""
        if lasted >= STABLE_AFTER:
            self._failures = 0
        return self.failed()
