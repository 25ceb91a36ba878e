"""What happens in one run, drawn from its seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

ACTIVE = 600.0
"""Seconds in which apps send and things go wrong. Afterwards the network is lossy but whole."""


@dataclass
class Member:
    """One participant: when it comes, when it is down, whether it leaves for good."""

    name: str
    profile: str
    joins: float = 0.0
    leaves: float | None = None
    skew: float = 0.0
    crashes: list[tuple[float, float]] = field(default_factory=list)
    """(moment, seconds down)."""


@dataclass
class Plan:
    """A run."""

    seed: int
    members: list[Member]
    loss: float
    duplication: float
    delay: float
    sends: list[tuple[float, int, int]]
    """(moment, member, payload size)."""
    partitions: list[tuple[float, float, int]]
    """(begin, end, members below this number are cut from the others)."""
    parity: float
    encrypted: bool
    stores: bool
    hooks: bool
    """Apps encrypt and decrypt the segments themselves."""


def make_plan(seed: int) -> Plan:
    """Draw a run. Most have few participants: faults do not need many, and time is better spent on more
    seeds."""
    random = Random(seed)
    count = random.choice([2, 2, 3, 3, 4, 4, 5, 6, 8, 20]) if seed % 25 else 20
    mixed = random.random() < 0.2
    members = [
        Member(
            f"member-{number}",
            random.choice(["reference", "raw", "js"]) if mixed else "reference",
            skew=random.uniform(-300, 300),
        )
        for number in range(count)
    ]
    for member in members[2:]:
        if random.random() < 0.2:
            member.joins = random.uniform(0, ACTIVE)
        elif random.random() < 0.1:
            member.leaves = random.uniform(60, ACTIVE)
    for member in members:
        if random.random() < 0.4:
            member.crashes = [
                (random.uniform(0, ACTIVE), random.uniform(1, 200)) for _ in range(random.randint(1, 3))
            ]
    sends = sorted(
        (random.uniform(0, ACTIVE), random.randrange(count), random.choice([20, 20, 40, 40, 300, 700]))
        for _ in range(random.randint(1, 25))
    )
    partitions = [
        (begin, begin + random.uniform(10, 300), random.randint(1, count - 1))
        for begin in (random.uniform(0, ACTIVE) for _ in range(random.choice([0, 0, 1, 2])))
    ]
    plan = Plan(
        seed,
        members,
        loss=random.choice([0.0, 0.1, 0.3, 0.5]),
        duplication=random.choice([0.0, 0.1, 0.3]),
        delay=random.choice([0.1, 2.0, 20.0]),
        sends=sends,
        partitions=partitions,
        parity=random.choice([0.0, 0.0, 0.5]),
        encrypted=random.random() < 0.3,
        stores=random.random() < 0.3,
        hooks=False,
    )
    plan.hooks = not plan.encrypted and not mixed and random.random() < 0.3
    return plan
