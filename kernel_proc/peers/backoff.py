"""When to dial again: exponential back-off with jitter, per address. Pure."""

from __future__ import annotations

from random import Random
from typing import Final

from ipc_schema.backoff import retry_delay

__all__ = ["DialBackoff"]

FIRST: Final = 1.0
HIGHEST: Final = 8.0
"""After dials that failed: with the jitter below 10 s, since something mostly waits for a configured peer."""
HIGHEST_REFUSED: Final = 60.0
"""After connections that a peer made and ended at once: it is there and does not want us."""
STABLE_AFTER: Final = 30.0
"""Seconds of connection after which an earlier row of failures is forgotten."""


class DialBackoff:
    """Delays before the next dial of one address, in seconds: 1, 2, 4, 8, each ± 20 %; up to 60 for a peer
    that accepts connections and ends them.

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
        """Note that a dial failed; return how long to wait."""
        return self._next(HIGHEST)

    def lost(self, lasted: float) -> float:
        """Note that a connection ended after `lasted` seconds; return how long to wait."""
        if lasted >= STABLE_AFTER:
            self._failures = 0
        return self._next(HIGHEST_REFUSED)

    def _next(self, highest: float) -> float:
        self._failures += 1
        return retry_delay(self._failures, FIRST, 2.0, highest) * self._rng.uniform(0.8, 1.2)
