"""Work counted instead of timed: lines of Python run, and steps between checkpoints of a trio task.

How long work takes depends on the machine and on what else it does. How much of it there is does not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import trio


class _LineCounter:
    def __init__(self) -> None:
        self.lines = 0

    def __call__(self, _frame: FrameType, event: str, _argument: Any) -> _LineCounter:
        self.lines += event == "line"
        return self


def lines_run(work: Callable[[], object]) -> int:
    """Run `work` and return how many lines of Python that took. Loops inside C code count as one line."""
    counter, before = _LineCounter(), sys.gettrace()
    sys.settrace(counter)
    try:
        work()
    finally:
        sys.settrace(before)
    return counter.lines


class HeaviestStep(trio.abc.Instrument):
    """The most lines of Python that any task ran between two checkpoints."""

    def __init__(self) -> None:
        self.lines = 0
        self._counter = _LineCounter()
        self._before: Any = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._counter.lines = 0
        self._before = sys.gettrace()
        sys.settrace(self._counter)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        sys.settrace(self._before)
        self.lines = max(self.lines, self._counter.lines)


class LargestStep(trio.abc.Instrument):
    """The most that `count` grew by between two checkpoints of any task."""

    def __init__(self, count: Callable[[], int]) -> None:
        self.most = 0
        self._count = count
        self._begun = count()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._begun = self._count()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.most = max(self.most, self._count() - self._begun)
