"""What supervisord's view of the processes means for `logos up`. Pure.

supervisord restarts what ends unexpectedly at once and without end (it must, see `conf`). A process that
cannot live, a broken installation say, would burn a processor for ever: after several ends in a short time
the node is given up instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from logos_deploy.exits import Exit
from logos_deploy.node.rpc import ProcessState

__all__ = ["NodeWatch", "Verdict"]

MAX_RESTARTS: Final = 5
RESTART_WINDOW: Final = 30.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The node is over: with which exit code, and why."""

    code: Exit
    reason: str


class NodeWatch:
    """Feed it what supervisord says; it tells which processes are new, and when the node is over."""

    def __init__(self) -> None:
        self._pids: dict[str, int] = {}
        self._restarts: dict[str, deque[float]] = {}

    def started(self, now: float, states: Iterable[ProcessState]) -> list[tuple[str, int, bool]]:
        """(name, pid, whether it is a restart) of the processes that are new since the last call."""
        news = []
        for state in states:
            before = self._pids.get(state.name)
            if state.pid and state.pid != before:
                self._pids[state.name] = state.pid
                if before is not None:
                    self._restarts.setdefault(state.name, deque(maxlen=MAX_RESTARTS)).append(now)
                news.append((state.name, state.pid, before is not None))
        return news

    def verdict(self, now: float, states: Iterable[ProcessState]) -> Verdict | None:
        """None while the node may go on."""
        known = list(states)
        for state in known:
            if state.state == "FATAL":
                return Verdict(Exit.FAILED, f"{state.name} cannot be started: {state.spawn_error}")
            if state.state == "EXITED" and state.exit_status == Exit.CONFIG:
                return Verdict(Exit.CONFIG, f"{state.name} refused its configuration (exit code 78)")
        for name, times in self._restarts.items():
            if len(times) == MAX_RESTARTS and now - times[0] <= RESTART_WINDOW:
                return Verdict(
                    Exit.FAILED, f"{name} ended {MAX_RESTARTS} times within {RESTART_WINDOW:g} s: given up"
                )
        if known and all(state.ended for state in known):
            return Verdict(Exit.OK, "all processes have ended as they were asked to")
        return None
