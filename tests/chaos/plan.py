"""What goes wrong and when: a pure function of a seed."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final, NamedTuple

__all__ = ["Cut", "Kill", "make_plan"]

KILL_EVERY: Final = (2.0, 8.0)
"""Seconds between two kills: uniform."""
CUT_EVERY: Final = (4.0, 16.0)
CUT_SECONDS: Final = (1.0, 60.0)
QUIET_SECONDS: Final = 3.0
"""At the start, nothing goes wrong."""


class Kill(NamedTuple):
    """SIGKILL for these processes, which are started again at once."""

    at: float
    names: tuple[str, ...]


class Cut(NamedTuple):
    """A link is cut for a while. `frozen`: packets are lost without a word; else connections are reset and
    refused.
    """

    at: float
    link: str
    seconds: float
    frozen: bool


def make_plan(
    seed: int, seconds: float, groups: Sequence[Sequence[str]], links: Sequence[str]
) -> list[Kill | Cut]:
    """All faults within `seconds`, in order.

    `groups`: the names of the processes by kind; a kind is chosen first, so that many apps do not shield one
    store. One kill in six takes a second process of any kind along.
    """
    random = Random(seed)
    faults: list[Kill | Cut] = []
    at = QUIET_SECONDS + random.uniform(0.0, 2.0)
    while at < seconds:
        names = [random.choice(random.choice(groups))]
        if random.random() < 1 / 6:
            second = random.choice(random.choice(groups))
            if second not in names:
                names.append(second)
        faults.append(Kill(round(at, 3), tuple(names)))
        at += random.uniform(*KILL_EVERY)
    at = QUIET_SECONDS + random.uniform(0.0, 4.0)
    while at < seconds:
        # As many short cuts as long ones: those that nobody notices are as wicked as those that all do.
        low, high = CUT_SECONDS
        length = low * (high / low) ** random.random()
        faults.append(Cut(round(at, 3), random.choice(links), round(length, 2), random.random() < 0.5))
        at += random.uniform(*CUT_EVERY)
    return sorted(faults, key=lambda fault: fault.at)
