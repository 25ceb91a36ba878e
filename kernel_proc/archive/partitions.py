"""The partitions of the archive's table, pure: ranges of message timestamps in ns, from the beginning to the
end of time without a gap.

The first one has no lower bound: it takes what comes late (an import, an old message of another store). The
last one has no upper bound: it takes what is dated ahead, and everything while no kernel creates partitions.
Those between are of one width, created ahead of time and dropped whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final, NamedTuple

TABLE: Final = "logos_message"
FIRST: Final = f"{TABLE}_first"
LAST: Final = f"{TABLE}_last"

_SECOND: Final = 1_000_000_000
_WIDTHS: Final = (300, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)
"""Seconds; each divides a day, so that bounds are round times."""
_PARTS: Final = 24
"""Partitions that the kept messages are spread over: what is kept beyond the policy is one of them."""
_AHEAD: Final = 4
"""Partitions that wait for their time. All of them together last longer than the pause between two looks."""
_SEAL_NS: Final = 3600 * _SECOND
"""How far ahead a partition in use is cut: longer than checking its rows takes."""
_BOUNDS: Final = re.compile(r"FROM \('?(-?\d+|MINVALUE)'?\) TO \('?(-?\d+|MAXVALUE)'?\)")


class Partition(NamedTuple):
    """A table of the messages with `low` <= timestamp < `high`; None: without that bound."""

    name: str
    low: int | None
    high: int | None

    @property
    def bounds(self) -> str:
        """Return the SQL of the bounds."""
        low = "MINVALUE" if self.low is None else self.low
        high = "MAXVALUE" if self.high is None else self.high
        return f"FOR VALUES FROM ({low}) TO ({high})"

    @property
    def condition(self) -> str:
        """Return the SQL condition that the rows meet."""
        bounds = ((">=", self.low), ("<", self.high))
        return " AND ".join(f"timestamp {sign} {at}" for sign, at in bounds if at is not None) or "true"

    @property
    def is_wide(self) -> bool:
        """Whether it holds so much time that its messages are removed singly, not only with the whole of
        it."""
        return self.low is None or self.high is None or self.high - self.low > _WIDTHS[-1] * _SECOND


def parse_bounds(name: str, text: str) -> Partition:
    """Return the partition from PostgreSQL's text of its bounds. Raise `ValueError`."""
    match = _BOUNDS.search(text)
    if match is None:
        raise ValueError(f"partition {name} has bounds of another kind: {text}")
    low, high = (None if value in ("MINVALUE", "MAXVALUE") else int(value) for value in match.groups())
    return Partition(name, low, high)


def partition_width(keeps: float | None) -> int:
    """Return the width in ns for messages that are kept for so many seconds; None: for ever."""
    wanted = _WIDTHS[-1] if keeps is None else keeps / _PARTS
    return _SECOND * max((width for width in _WIDTHS if width <= wanted), default=_WIDTHS[0])


def are_enough(last: Partition, now: int, width: int) -> bool:
    """Return whether there are partitions for some time to come. `last` is the last one."""
    return last.low is not None and last.low >= now + (_AHEAD - 1) * width


def partitions_from(low: int | None, now: int, width: int) -> list[Partition]:
    """Return the partitions from `low` to the end of time: up to the present one (one for all the time
    before), the present one, those ahead, and the last one."""
    present = now - now % width
    cuts = (present + number * width for number in range(_AHEAD + 2))
    bounds = [low, *(cut for cut in cuts if low is None or cut > low)]
    return [
        *(Partition(_name(begin), begin, end) for begin, end in pairwise(bounds)),
        Partition(LAST, bounds[-1], None),
    ]


def sealed(last: Partition, now: int, width: int) -> Partition:
    """Return what the last partition becomes, if it is in use: it ends a while from now."""
    high = now + _SEAL_NS
    return Partition(_name(last.low), last.low, high + -high % width)


def expired(partitions: Sequence[Partition], before: int) -> list[Partition]:
    """Return the oldest partitions, those without any message from `before` on."""
    return [partition for partition in partitions if partition.high is not None and partition.high <= before]


def _name(low: int | None) -> str:
    if low is None:
        return FIRST
    return f"{TABLE}_{datetime.fromtimestamp(low // _SECOND, UTC):%Y%m%d_%H%M}"
