"""Steady time for stored data: a clock that steps of the wall clock do not move, carried over restarts by a
stamp.

A host's wall clock may be an hour or a year wrong, and be corrected while a process runs. Ages, gaps and
rates are therefore decided by a clock that only runs forward. It starts at the wall clock's reading; a
later run continues from the stamp that the last one left. The wall clock remains the label: what people and
other hosts read is converted with `label`, what they wrote with `of_label`.

Pure: the readings of both clocks, and the id of the host's boot, are arguments.
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
    """Id of the boot that `steady` counts from; "" if unknown."""
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
        return json.dumps(self.to_dict()).encode()

    @classmethod
    def from_note(cls, note: bytes | None) -> Stamp | None:
        """Parse JSON; None if there is none, or it cannot be read."""
        try:
            return cls.from_dict(json.loads(note or b""))
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


class SteadyClock:
    """Nanoseconds since 1970 by the wall clock at the first start, counted on from there."""

    def __init__(
        self,
        wall: Callable[[], int],
        steady: Callable[[], int],
        boot: str = "",
        last: Stamp | None = None,
    ) -> None:
        """Continue from `last`, the stamp of the previous run.

        `steady` returns ns since boot, suspend included; `boot` identifies that boot.
        """
        self._wall = wall
        self._steady = steady
        self._boot = boot
        begin = wall() if last is None else last.label + self.age(last)
        self._offset = begin - steady()

    def __call__(self) -> int:
        """Return the current instant."""
        return self._offset + self._steady()

    def age(self, stamp: Stamp) -> int:
        """Return how long ago a stamp was made.

        Across a reboot only the wall clock can say; if it was set back, the answer is 0.
        """
        if stamp.boot and stamp.boot == self._boot:
            return max(0, self._steady() - stamp.steady)
        return max(0, self._wall() - stamp.wall)

    def stamp(self) -> Stamp:
        return Stamp(self._boot, self._steady(), self._wall(), self())

    @property
    def shift(self) -> int:
        """The difference to add to a current wall-clock label to get an instant of this clock."""
        return self() - self._wall()

    def label(self, instant: int) -> int:
        """Convert an instant to the current wall clock."""
        return instant - self.shift

    def of_label(self, label: int) -> int:
        """Convert a label of the current wall clock to an instant."""
        return label + self.shift
