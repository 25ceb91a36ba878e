"""Who goes when, from a seed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

PERIOD: Final = 60.0
"""Seconds from one turn to the next, about."""
AWAY: Final = (1.0, 15.0)
BOOTSTRAP_SHARE: Final = 0.25
CALM: Final = 0.25
"""The last part of a run, at most one period, in which nothing happens any more."""


class What(StrEnum):
    """What happens to a member."""

    RESTART = "restart"
    """It is killed, and started again after a while."""
    GO = "go"
    """It is killed and stays away."""
    RETURN = "return"
    """It is started again."""


@dataclass(frozen=True, slots=True)
class Turn:
    """At `at` seconds. `away`: seconds until a member that is restarted is started again."""

    at: float
    what: What
    member: str
    away: float = 0.0


def make_plan(seed: int, seconds: float, members: Sequence[str], bootstrap: str) -> list[Turn]:
    """The turns of a run, in order. In the second the bootstrap goes; later it returns, and goes again."""
    random = Random(seed)
    period = min(PERIOD, seconds / 4)
    end = seconds - min(seconds * CALM, PERIOD)
    plan: list[Turn] = []
    there = True
    at = period / 2
    while at < end:
        if len(plan) == 1 or (len(plan) > 1 and random.random() < BOOTSTRAP_SHARE):
            plan.append(Turn(at, What.GO if there else What.RETURN, bootstrap))
            there = not there
        else:
            away = min(random.uniform(*AWAY), period / 4)
            plan.append(Turn(at, What.RESTART, random.choice(members), away))
        at += period * random.uniform(0.75, 1.25)
    return plan
