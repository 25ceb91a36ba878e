"""The time that MAPI has run with its database, over all starts: the windows of sends count only this.

A send's row has the label of its first attempt, and the database the label of some seconds ago, if sends
waited then. So the windows of thousands of sends go on with the next start, and no row is written again for
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

WINDOWS_NOTE: Final = "windows"
"""The database's note that holds the clock's label."""
_SECOND: Final = 1_000_000_000


class WindowClock:
    """Converts moments of this run's clock (seconds) to labels that hold over restarts (ns), and back."""

    def __init__(self, clock: Callable[[], float], note: bytes, labels: Iterable[int]) -> None:
        """`note`: the newest of earlier runs; one that cannot be read counts as none. `labels`: those of the
        rows, which may be much newer: without sends there are no notes."""
        try:
            ran = int(note or b"0")
        except ValueError:
            ran = 0
        self._clock = clock
        self._zero = clock() - max((ran, *labels)) / _SECOND

    def label(self, moment: float) -> int:
        """Return the label of a moment."""
        return int((moment - self._zero) * _SECOND)

    def now(self) -> int:
        """Return the label of this moment."""
        return self.label(self._clock())

    def used(self, label: int) -> float:
        """Return the seconds since a label."""
        return self._clock() - self._zero - label / _SECOND

    def note(self) -> bytes:
        """Return what to store."""
        return str(self.now()).encode()
