"""What goes wrong and when: a pure function of a seed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import Final, NamedTuple

KILL_EVERY: Final = (2.0, 8.0)
"""Seconds between two kills: uniform."""
CUT_EVERY: Final = (4.0, 16.0)
CUT_SECONDS: Final = (1.0, 60.0)
QUIET_SECONDS: Final = 3.0
"""At the start, nothing goes wrong."""
STEPS_S: Final = (20 * 60.0, 3600.0, 8 * 86_400.0, 365 * 86_400.0)
"""By how much a clock is set, either way."""


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


class Away(NamedTuple):
    """SIGKILL for these processes together; they are started again, together, after a while."""

    at: float
    names: tuple[str, ...]
    seconds: float


class Step(NamedTuple):
    """The wall clock of a host is set by `ahead` seconds, and set right after a while."""

    at: float
    host: str
    ahead: float
    seconds: float


class Full(NamedTuple):
    """The disk of a host is full for a while."""

    at: float
    host: str
    seconds: float


class Unread(NamedTuple):
    """A process is killed and started again; its log goes into a pipe that is not read for a while."""

    at: float
    name: str
    seconds: float


class Backup(NamedTuple):
    """A copy is made of a Messaging API's database."""

    at: float
    host: str


class Restore(NamedTuple):
    """A Messaging API is killed, its database replaced by the last copy, and it is started again."""

    at: float
    host: str


Fault = Kill | Cut | Away | Step | Full | Unread | Backup | Restore

_Draw = Callable[[Random, float, Sequence[str], Sequence[str]], list[Fault]]


def _stores(random: Random, at: float, hosts: Sequence[str], stores: Sequence[str]) -> list[Fault]:
    """One store is away."""
    return [Away(at, (f"kernel:{random.choice(stores)}",), round(random.uniform(5.0, 40.0), 2))]


def _together(random: Random, at: float, hosts: Sequence[str], stores: Sequence[str]) -> list[Fault]:
    """A node's kernel and a store fall, and rise, together."""
    names = f"kernel:{random.choice(hosts)}", f"kernel:{random.choice(stores)}"
    return [Away(at, names, round(random.uniform(0.5, 30.0), 2))]


def _clock(random: Random, at: float, hosts: Sequence[str], stores: Sequence[str]) -> list[Fault]:
    ahead = random.choice(STEPS_S) * random.choice((1, -1))
    return [Step(at, random.choice((*hosts, *stores)), ahead, round(random.uniform(3.0, 20.0), 2))]


def _full(random: Random, at: float, hosts: Sequence[str], stores: Sequence[str]) -> list[Fault]:
    return [Full(at, random.choice((*hosts, *stores)), round(random.uniform(1.0, 10.0), 2))]


def _unread(random: Random, at: float, hosts: Sequence[str], stores: Sequence[str]) -> list[Fault]:
    names = [f"kernel:{host}" for host in (*hosts, *stores)] + [f"mapi:{host}" for host in hosts]
    return [Unread(at, random.choice(names), round(random.uniform(5.0, 20.0), 2))]


def _restore(random: Random, at: float, hosts: Sequence[str], stores: Sequence[str]) -> list[Fault]:
    host = random.choice(hosts)
    return [Backup(at, host), Restore(round(at + random.uniform(2.0, 20.0), 3), host)]


MOVES: Final[dict[str, tuple[float, _Draw]]] = {
    "stores": (40.0, _stores),
    "together": (30.0, _together),
    "clock": (20.0, _clock),
    "full": (40.0, _full),
    "unread": (40.0, _unread),
    "restore": (80.0, _restore),
}
"""The moves beside kills and cuts: about how many seconds lie between two of a kind, and what is done."""


def make_plan(
    seed: int,
    seconds: float,
    groups: Sequence[Sequence[str]],
    links: Sequence[str],
    *,
    hosts: Sequence[str] = (),
    stores: Sequence[str] = (),
    moves: Collection[str] = (),
) -> list[Fault]:
    """All faults within `seconds`, in order.

    `groups`: the names of the processes by kind; a kind is chosen first, so that many apps do not shield one
    store. One kill in six takes a second process of any kind along. `moves`: which others are made, each from
    random numbers of its own, so that leaving one out changes no other.
    """
    random = Random(seed)
    faults: list[Fault] = []
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
        # As many short cuts as long ones: an unnoticed one does as much harm as one that all notice.
        low, high = CUT_SECONDS
        length = low * (high / low) ** random.random()
        faults.append(Cut(round(at, 3), random.choice(links), round(length, 2), random.random() < 0.5))
        at += random.uniform(*CUT_EVERY)
    for move in moves:
        every, draw = MOVES[move]
        own = Random(f"{seed}:{move}")
        at = QUIET_SECONDS + own.uniform(0.0, every)
        while at < seconds:
            faults += draw(own, round(at, 3), hosts, stores)
            at += own.uniform(every / 2, every * 3 / 2)
    return sorted(faults, key=lambda fault: fault.at)
