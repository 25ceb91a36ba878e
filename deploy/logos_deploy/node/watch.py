"""What supervisord's view of the processes means for `logos up`. Pure.

supervisord restarts unexpected exits at once and without limit (it must, see `conf`): when to give up is
decided here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from logos_deploy.exits import Exit
from logos_deploy.node.restarts import MAX_RESTARTS, RESTART_WINDOW, RestartLimit
from logos_deploy.node.rpc import ProcessState

GATEWAY: Final = "gateway"
BRIDGE: Final = "bridge"
_OPTIONAL: Final = frozenset({GATEWAY, BRIDGE})
"""Programs whose exit never stops the others."""


@dataclass(frozen=True, slots=True)
class WatchVerdict:
    """The node is over: with which exit code, and why."""

    code: Exit
    reason: str


class NodeWatch:
    """Takes supervisord's reports; says which processes are new, and when the node is over."""

    def __init__(self) -> None:
        self._pids: dict[str, int] = {}
        self._restarts: dict[str, RestartLimit] = {}

    def started(self, now: float, states: Iterable[ProcessState]) -> list[tuple[str, int, bool]]:
        """Return (name, pid, whether it is a restart) of the processes that are new since the last call."""
        news = []
        for state in states:
            before = self._pids.get(state.name)
            if state.pid and state.pid != before:
                self._pids[state.name] = state.pid
                if before is not None:
                    self._restarts.setdefault(state.name, RestartLimit()).add(now)
                news.append((state.name, state.pid, before is not None))
        return news

    def verdict(self, now: float, states: Iterable[ProcessState]) -> WatchVerdict | None:
        """Return None while the node may go on."""
        known = [state for state in states if state.name not in _OPTIONAL]
        for state in known:
            if state.state == "FATAL":
                return WatchVerdict(Exit.FAILED, f"{state.name} cannot be started: {state.spawn_error}")
            if state.state == "EXITED" and state.exit_status == Exit.CONFIG:
                return WatchVerdict(Exit.CONFIG, f"{state.name} refused its configuration (exit code 78)")
        for name, limit in self._restarts.items():
            if name not in _OPTIONAL and limit.reached(now):
                return WatchVerdict(
                    Exit.FAILED, f"{name} ended {MAX_RESTARTS} times within {RESTART_WINDOW:g} s: given up"
                )
        if known and all(state.ended for state in known):
            return WatchVerdict(Exit.OK, "all processes have ended on request")
        return None
