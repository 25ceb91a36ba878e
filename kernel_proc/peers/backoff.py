"""Redial delays: exponential back-off with jitter, per address. Pure."""

from __future__ import annotations

from random import Random
from typing import Final

from ipc_schema.backoff import retry_delay

FIRST: Final = 1.0
HIGHEST: Final = 8.0
"""After failed dials: with jitter still below 10 s, because services usually depend on a configured peer."""
HIGHEST_REFUSED: Final = 60.0
"""After connections that the peer accepted and closed at once: it is up but does not want us."""
STABLE_AFTER: Final = 30.0
"""Seconds of connection after which previous failures are forgotten."""


class DialBackoff:
    """Delays before redialling one address: 1, 2, 4, 8 s, each ± 20 %; up to 60 s for a peer that accepts
    connections and closes them.

    nwaku waits 120 s after the first failure and abandons an address after five. These addresses were
    configured by the operator: they are never abandoned, and a long delay while *this* node is offline would
    only hurt.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.failures = 0
        """Number of consecutive failed dials and short-lived connections."""

    def failed(self) -> float:
        """Record a failed dial. Return the delay in seconds before the next one."""
        return self._next(HIGHEST)

    def lost(self, lasted: float) -> float:
        """Record the end of a connection that lasted `lasted` seconds. Return the delay before the next
        dial."""
        if lasted >= STABLE_AFTER:
            self.failures = 0
        return self._next(HIGHEST_REFUSED)

    def _next(self, highest: float) -> float:
        self.failures += 1
        return retry_delay(self.failures, FIRST, 2.0, highest) * self._rng.uniform(0.8, 1.2)
