"""The Lamport clock of a channel, with bounded jumps."""

from __future__ import annotations

from mapi_proc.channels.sds.bloom import NIM

_NS_PER_MS = 1_000_000


class LamportClock:
    """Counts in milliseconds; messages of the nim form carry it in seconds, rounded up."""

    def __init__(self, form: str, jump: int, jump_new: int) -> None:
        self._unit = 1000 if form == NIM else 1
        self._jump = jump
        self._jump_new = jump_new
        self.value = 0

    def next(self, now_ns: int) -> int:
        """Return the time of a new message, in the form's unit: after everything seen, and not behind the
        wall clock."""
        unit = self._unit
        seen = -(-self.value // unit)
        now = now_ns // _NS_PER_MS // unit
        # nim: max(now, clock) + 1; js: max(now, clock + 1).
        wire = max(now, seen) + 1 if unit > 1 else max(now, seen + 1)
        self.value = wire * unit
        return wire

    def believes(self, order: int, now_ns: int) -> bool:
        """Return whether a received time is plausible. One absurd value would move every participant's clock
        for good."""
        jump = self._jump if self.value else self._jump_new
        return order <= max(now_ns // _NS_PER_MS, self.value) + jump

    def observe(self, order: int) -> None:
        """Record the time of a received message."""
        self.value = max(self.value, order)
