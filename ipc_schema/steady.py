"""Time for what is kept: a clock that no step of the wall clock moves, carried over restarts by a stamp.

The wall clock of a host may be an hour or a year wrong, and be set right, while a process runs. Ages, gaps
and rates are therefore decided by instants of a clock that only runs forward. It begins with the wall clock's
reading; a later run goes on from the stamp that the last one left. The wall clock remains the label: what
people and other hosts read is converted with `label`, what they wrote with `of_label`.

Pure: the readings of both clocks, and the identity of the host's boot, are given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

__all__ = ["Stamp", "SteadyClock"]


@dataclass(frozen=True, slots=True)
class Stamp:
    """A moment by three clocks (ns)."""

    boot: str
    """The start of the host that `steady` counts from; "" if it is not known."""
    steady: int
    wall: int
    label: int
    """The reading of the writer's `SteadyClock`."""

    def to_dict(self) -> dict[str, str | int]:
        """Return it as a JSON object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, object]) -> Stamp:
        """Read a JSON object. Raises KeyError, TypeError, ValueError."""
        boot, *times = (row[name] for name in ("boot", "steady", "wall", "label"))
        if not isinstance(boot, str) or not all(type(one) is int for one in times):
            raise TypeError("a stamp is a text and three integers")
        steady, wall, label = (one for one in times if isinstance(one, int))
        if max(abs(steady), abs(wall), abs(label)) >= 1 << 63:
            raise ValueError("a time that cannot be")
        return cls(boot, steady, wall, label)

    def to_note(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(self.to_dict()).encode()

    @classmethod
    def from_note(cls, note: bytes | None) -> Stamp | None:
        """Read JSON; None where there is none, or none that can be read."""
        try:
            return cls.from_dict(json.loads(note or b""))
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


class SteadyClock:
    """Nanoseconds since 1970 as the wall clock had it at the first start, counted on from there."""

    def __init__(
        self,
        wall: Callable[[], int],
        steady: Callable[[], int],
        boot: str = "",
        last: Stamp | None = None,
    ) -> None:
        """`steady`: ns since the host's start, sleep included; `boot` names that start. `last`: the stamp of
        the run before."""
        self._wall = wall
        self._steady = steady
        self._boot = boot
        begin = wall() if last is None else last.label + self.age(last)
        self._offset = begin - steady()

    def __call__(self) -> int:
        """The present instant."""
        return self._offset + self._steady()

    def age(self, stamp: Stamp) -> int:
        """How long ago a stamp was made.

        Across a start of the host only the wall clock can say; if it has been set back, the answer is 0.
        """
        if stamp.boot and stamp.boot == self._boot:
            return max(0, self._steady() - stamp.steady)
        return max(0, self._wall() - stamp.wall)

    def stamp(self) -> Stamp:
        """The stamp to keep."""
        return Stamp(self._boot, self._steady(), self._wall(), self())

    @property
    def shift(self) -> int:
        """What to add to a label of now for an instant of this clock."""
        return self() - self._wall()

    def label(self, instant: int) -> int:
        """The instant as the wall clock of now counts."""
        return instant - self.shift

    def of_label(self, label: int) -> int:
        """The instant that the wall clock of now calls so."""
        return label + self.shift
