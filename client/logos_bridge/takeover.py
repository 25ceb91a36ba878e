"""Which bridges are alive, and whose sends may be taken over. Pure.

A bridge writes a sign of life while it and its Messaging API work. It is dead when that key has not changed
for a while on *this* host's monotonic clock: the clocks of two hosts are never compared. Two bridges may both
find a third one dead; the compare-and-set on each send decides which of them gets it.
"""

from __future__ import annotations

from collections.abc import Iterable


class Takeover:
    """`own`: this bridge's name; `after`: seconds of silence; `now`: a monotonic clock in seconds."""

    def __init__(self, own: str, after: float) -> None:
        self._own = own
        self._after = after
        self._heard: dict[str, tuple[int, float]] = {}
        self._cleared: set[str] = set()

    def sign(self, bridge: str, revision: int, now: float) -> None:
        """Take the revision of a bridge's sign of life, whenever it was read."""
        before = self._heard.get(bridge)
        if before is None or before[0] != revision:
            self._heard[bridge] = (revision, now)
            self._cleared.discard(bridge)

    def alive(self, bridge: str, now: float) -> bool:
        """Return whether its sends are to be left alone. One never heard of is, from now on, waited for."""
        if bridge == self._own:
            return True
        _, heard = self._heard.setdefault(bridge, (-1, now))
        return now - heard < self._after

    def alive_ones(self, now: float) -> list[str]:
        """Return the other bridges that are alive."""
        return sorted(name for name in self._heard if name != self._own and self.alive(name, now))

    def suspects(self, now: float) -> list[str]:
        """Return the dead bridges whose sends have not been looked for yet."""
        return sorted(
            name
            for name in self._heard
            if name != self._own and name not in self._cleared and not self.alive(name, now)
        )

    def cleared(self, bridges: Iterable[str]) -> None:
        """Note that none of these has an open send left. Its next sign of life undoes this."""
        self._cleared.update(bridges)
