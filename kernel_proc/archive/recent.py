"""The rows written last, kept to be written again where a fail-over has lost them. Pure.

A replica that becomes the primary may lack what the old one had committed last, unless it was synchronous.
Rows are unique by their hash, so writing them again does no harm.

Above about 200 messages of 1 KiB a second the limit in bytes is the shorter one: at 5,000 a second, two
seconds are kept. They must cover what an asynchronous replica is behind, not how long a fail-over takes:
while no primary answers, nothing is committed. `is_short` means that what was lost may reach further back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from kernel_proc.archive.rows import ROW_OVERHEAD, ArchivedRow

SECONDS: Final = 60.0
BYTES: Final = 16 << 20


class RecentRows:
    """Groups of rows of the last minute before the latest one, within 16 MiB."""

    def __init__(self) -> None:
        self._groups: deque[tuple[float, int, Sequence[ArchivedRow]]] = deque()
        self._bytes = 0
        self.is_short = False
        """Whether rows of the last minute had to be given up for want of room."""

    def add(self, rows: Sequence[ArchivedRow], now: float) -> None:
        """Add a group that was committed. `now`: seconds of a monotonic clock."""
        size = len(rows) * ROW_OVERHEAD + sum([len(row.data) for row in rows])
        self._groups.append((now, size, rows))
        self._bytes += size
        while self._bytes > BYTES or self._groups[0][0] < now - SECONDS:
            at, size, _ = self._groups.popleft()
            self._bytes -= size
            self.is_short = at >= now - SECONDS
            if not self._groups:
                return

    def __iter__(self) -> Iterator[Sequence[ArchivedRow]]:
        return (rows for _, _, rows in self._groups)
