"""What all benches share: child processes driven by JSON lines, alternating runs, one result line a case.

A bench compares ours with a reference in the same run: the two take turns, so that whatever else the machine
does hits both alike. What counts is the ratio of the medians; the single figures tell how quiet it was.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
EVENT_SECONDS: Final = 60.0


class BenchError(Exception):
    """A run is not valid: something was lost, or a process ended."""


@dataclass(frozen=True, slots=True)
class Options:
    """`runs` measured runs of each side; `scale` makes every run shorter or longer; `only`: a part of the
    names of the cases to run; `keep`: a directory for data that later runs use again."""

    runs: int = 5
    scale: float = 1.0
    only: str = ""
    keep: Path | None = None

    def count(self, messages: int) -> int:
        """So many messages in a run."""
        return max(20, int(messages * self.scale))

    def wants(self, case: str) -> bool:
        """Whether a case is asked for."""
        return self.only in case


class Round(NamedTuple):
    """One run of one side. `cpu` is µs of CPU per message by process; `extra` whatever else a case shows."""

    value: float
    cpu: Mapping[str, float]
    extra: Mapping[str, float] = {}


@dataclass(slots=True)
class Case:
    """What a line tells about itself. `target` names the figure that is to be reached, as text and test."""

    bench: str
    name: str
    unit: str
    reference_name: str
    target: str = ""
    reached: Callable[[dict[str, Any]], bool] | None = None
    more: dict[str, Any] = field(default_factory=dict)


def alternate(runs: int, *sides: Callable[[], Round]) -> list[list[Round]]:
    """Run the sides in turn, `runs` times; the rounds of each side."""
    rounds: list[list[Round]] = [[] for _ in sides]
    for _ in range(runs):
        for side, done in zip(sides, rounds, strict=True):
            done.append(side())
    return rounds


def result(case: Case, ours: Sequence[Round], reference: Sequence[Round]) -> dict[str, Any]:
    """The line of a case: medians of both sides and their ratio."""
    mine, theirs = _median(r.value for r in ours), _median(r.value for r in reference)
    line: dict[str, Any] = {
        "bench": case.bench,
        "case": case.name,
        "unit": case.unit,
        "ours": _rounded(mine),
        "reference": _rounded(theirs),
        "reference_name": case.reference_name,
        "ratio": round(mine / theirs, 3) if theirs else None,
        "runs": len(ours),
        "ours_runs": [_rounded(r.value) for r in ours],
        "reference_runs": [_rounded(r.value) for r in reference],
        "cpu_us": _medians([r.cpu for r in ours]),
        "reference_cpu_us": _medians([r.cpu for r in reference]),
    }
    line |= _medians([r.extra for r in ours])
    line |= {f"reference_{key}": value for key, value in _medians([r.extra for r in reference]).items()}
    line |= case.more
    if case.reached is not None:
        line |= {"target": case.target, "reached": case.reached(line)}
    return line


def emit(line: Mapping[str, Any]) -> None:
    """One line on standard output."""
    print(json.dumps(line, ensure_ascii=False), flush=True)


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: _rounded(_median(row[key] for row in rows)) for key in rows[0]}


def _rounded(value: float) -> float:
    return round(value) if abs(value) >= 1000 else round(value, 1)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of all lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def kib(size: int) -> str:
    """A payload's size as the cases name it."""
    return f"{size // 1024} KiB" if size >= 1024 else f"{size} B"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_1m": round(os.getloadavg()[0], 2),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


class Child:
    """A process of a bench: JSON lines to its standard input, JSON lines from its standard output.

    It has to end when its input does. Use it as a context manager.
    """

    def __init__(self, name: str, command: Sequence[str], *, cwd: Path = ROOT) -> None:
        self.name = name
        self._events: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            list(command), cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, name=f"bench {name}", daemon=True)
        self._reader.start()

    @classmethod
    def python(cls, name: str, module: str, *arguments: str) -> Child:
        """A process of a Python module."""
        return cls(name, [sys.executable, "-m", module, *arguments])

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._events.put(line)
        self._events.put(None)

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, **command: object) -> None:
        """Send a command."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise BenchError(f"{self.name} ended") from None

    def event(self, name: str, seconds: float = EVENT_SECONDS) -> dict[str, Any]:
        """The next event, which must be the one named."""
        try:
            line = self._events.get(timeout=seconds)
        except queue.Empty:
            raise BenchError(f"{self.name}: no {name!r} within {seconds:g} s") from None
        if line is None:
            raise BenchError(f"{self.name} ended while {name!r} was awaited")
        event: dict[str, Any] = json.loads(line)
        if event.get("event") != name:
            raise BenchError(f"{self.name} said {line.strip()} while {name!r} was awaited")
        return event

    def ask(self, answer: str, **command: object) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.send(**command)
        return self.event(answer)

    def close(self) -> None:
        """End the process: its input ends; what does not take notice is killed."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it may have ended already
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CpuMeter:
    """CPU that processes use from now on: all threads that live through it, to the nanosecond (Linux)."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._before = self.used(pids)

    @staticmethod
    def used(pids: Mapping[str, int]) -> dict[str, int]:
        """ns that each process has used since its start."""
        return {
            name: sum(
                int(thread.read_text(encoding="ascii").split()[0])
                for thread in Path(f"/proc/{pid}/task").glob("*/schedstat")
            )
            for name, pid in pids.items()
        }

    def per_message(self, messages: int) -> dict[str, float]:
        """µs per message by process."""
        now = self.used(self._pids)
        return {name: (now[name] - self._before[name]) / 1000 / messages for name in now}
