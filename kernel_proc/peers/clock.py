"""Time for what must be kept: a clock that no step of the wall clock moves, and its stamp on a file.

The wall clock of a host may be an hour or a year wrong and be set right, in either direction, while the node
runs. So instants are read from a clock that only runs forward; it begins with the wall clock's reading, which
makes them readable, and a later run moves the instants it finds in a file by the time that has really passed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["Stamp", "SteadyClock"]

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def _since_boot() -> float:
    """Seconds since the host started, those in which it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


@dataclass(frozen=True, slots=True)
class Stamp:
    """When a file was written, by three clocks."""

    boot: str
    """The start of the host that `steady` counts from; "" if it is not known."""
    steady: float
    wall: float
    label: float
    """The reading of the writer's SteadyClock."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Stamp:
        """Read a JSON object. Raises ValueError, TypeError, KeyError."""
        numbers = [float(row[name]) for name in ("steady", "wall", "label")]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a time that is not finite")
        return cls(str(row["boot"]), *numbers)


class SteadyClock:
    """Seconds since 1970 as the wall clock had it when the process started, counted on from there."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = _since_boot,
        boot: str | None = None,
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._boot = _boot_id() if boot is None else boot
        self._offset = wall() - steady()

    def __call__(self) -> float:
        """Return the present instant."""
        return self._offset + self._steady()

    def stamp(self) -> Stamp:
        """Return the stamp for a file that is being written."""
        return Stamp(self._boot, self._steady(), self._wall(), self())

    def age(self, stamp: Stamp) -> float:
        """Return the seconds since a file was written.

        Across a start of the host only the wall clock can say; if it has been set back, the answer is 0.
        """
        if stamp.boot and stamp.boot == self._boot:
            return max(0.0, self._steady() - stamp.steady)
        return max(0.0, self._wall() - stamp.wall)

    def shift(self, stamp: Stamp) -> float:
        """Return what to add to the instants in a file so that they are instants of this clock."""
        return self() - self.age(stamp) - stamp.label
