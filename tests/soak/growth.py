"""What grew between the beginning and the end of a run, and whether it may. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure may grow by: in all, by the hour, and by the message."""

    total: float
    hour: float = 0.0
    message: float = 0.0

    def allowed(self, seconds: float, messages: int) -> float:
        """The most it may grow in such a run."""
        return self.total + self.hour * seconds / 3600 + self.message * messages


BOUNDS: Final[Mapping[str, Bound]] = {
    # Caches that forget by time (2 min of messages seen, peers' scores) and SQLite's pages fill up first.
    "memory": Bound(16 << 20, hour=8 << 20),
    "files": Bound(4),
    "tasks": Bound(6),
    # What is kept for a time: request ids for a day, hashes, and in the archive the messages themselves.
    "database": Bound(4 << 20, message=4096),
    # SQLite's log is used again from its beginning once it has 64 MiB.
    "wal": Bound(72 << 20),
}
NETWORK_BOUNDS: Final[Mapping[str, Bound]] = {
    **BOUNDS,
    # Two peers more than at the beginning, with their streams: one that came back and the bootstrap.
    "files": Bound(10),
    "tasks": Bound(30),
}


@dataclass(frozen=True, slots=True)
class Growth:
    """One figure of one process: medians of the first and of the last fifth of the samples."""

    process: str
    figure: str
    first: float
    last: float
    allowed: float

    @property
    def grown(self) -> float:
        return self.last - self.first

    @property
    def within(self) -> bool:
        return self.grown <= self.allowed


def growth(
    process: str,
    samples: Sequence[Mapping[str, float]],
    seconds: float,
    messages: int,
    bounds: Mapping[str, Bound] = BOUNDS,
) -> list[Growth]:
    """The growth of every bounded figure in the samples of one process, taken after the warm-up."""
    part = max(1, len(samples) // 5)
    found = []
    for figure, bound in bounds.items():
        values = [sample[figure] for sample in samples]
        first, last = statistics.median(values[:part]), statistics.median(values[-part:])
        found.append(Growth(process, figure, first, last, bound.allowed(seconds, messages)))
    return found
