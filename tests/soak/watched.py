"""One process whose figures are looked at again and again, and the lines that a soak prints."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from logos_client import ControlClient
from tests.soak.growth import BOUNDS, Bound, growth

_WARM_UP: Final = (0.25, 300.0)
_FIGURES: Final = {
    "memory": "process_resident_memory_bytes",
    "files": "process_open_fds",
    "tasks": "tasks",
    "cpu": "process_cpu_seconds_total",
}


def warm_up(seconds: float) -> float:
    """The part of a run, in seconds, that is not compared: the first quarter, at most five minutes."""
    return min(seconds * _WARM_UP[0], _WARM_UP[1])


def emit(**values: object) -> None:
    """One JSON line."""
    print(json.dumps(values), flush=True)


@dataclass
class Watched:
    """One process: its control endpoint, where its database is, and what was seen of it."""

    name: str
    control: str
    data: Path
    samples: list[dict[str, float]] = field(default_factory=list)

    async def _metrics(self) -> tuple[tuple[str, dict[str, str], float], ...]:
        async with ControlClient.connect(self.control, timeout=10) as control:
            return (await control.metrics(timeout=10)).samples

    def look(self) -> dict[str, float]:
        """The figures now. Raises LogosError when it does not answer."""
        values = {name: value for name, labels, value in asyncio.run(self._metrics()) if not labels}
        seen = {figure: float(values[name]) for figure, name in _FIGURES.items()}
        for figure, pattern in (("database", "*.sqlite3"), ("wal", "*.sqlite3-wal")):
            seen[figure] = float(sum(path.stat().st_size for path in self.data.glob(pattern)))
        return seen


def report_growth(
    process: Watched, seconds: float, messages: int, bounds: Mapping[str, Bound] = BOUNDS
) -> bool:
    """Print what grew in a process in so many seconds after the warm-up. False: more than it may."""
    used = process.samples[-1]["cpu"] - process.samples[0]["cpu"]
    emit(process=process.name, cpu_percent=round(100 * used / seconds, 1))
    found = growth(process.name, process.samples, seconds, messages, bounds)
    for one in found:
        emit(**asdict(one), grown=one.grown, within=one.within)
    return all(one.within for one in found)
