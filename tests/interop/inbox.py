"""Events of something that runs beside the test: kept in order, waited for with a deadline."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

Event = dict[str, Any]
T = TypeVar("T")

_LOG_LINES = 200


class PeerError(Exception):
    """Root of what a driven node can end in."""


class CommandError(PeerError):
    """The node refused a command; the text is the node's."""


class PeerTimeoutError(PeerError):
    """The event or reply did not come before the deadline."""


class PeerEndedError(PeerError):
    """The node ended while something was awaited from it."""


class EventInbox:
    """Events `{"event": kind, …}` put in by a reader thread and taken by the test.

    What ends in a time-out tells which events came and were not taken, and what the node logged.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._changed = threading.Condition()
        self._events: deque[Event] = deque()
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._ended = False

    def _put(self, event: Event) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def _end(self) -> None:
        """End the input: notify all that wait for more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _wait(self, what: str, take: Callable[[], T | None], deadline: float) -> T:
        """Return what `take` finds, called under the lock after everything put; `deadline` in seconds."""
        end = time.monotonic() + deadline
        with self._changed:
            while (found := take()) is None:
                if self._ended:
                    raise PeerEndedError(f"{self.name} ended while {what} was awaited{self._story()}")
                if not self._changed.wait(end - time.monotonic()):
                    raise PeerTimeoutError(f"{self.name}: no {what} within {deadline:g} s{self._story()}")
        return found

    def _story(self) -> str:
        events = [json.dumps(event)[:200] for event in self._events]
        return "\n".join(["", "events not taken:", *events, "log:", *self._log])

    def wait_event(
        self, kind: str, matches: Callable[[Event], bool] = lambda event: True, *, deadline: float = 30.0
    ) -> Event:
        """Take and return the first event of this kind that matches; others stay for later calls."""

        def take() -> Event | None:
            for event in self._events:
                if event["event"] == kind and matches(event):
                    self._events.remove(event)
                    return event
            return None

        return self._wait(f"event {kind!r}", take, deadline)

    def pending(self, kind: str) -> list[Event]:
        """Events of this kind that came and were not taken."""
        with self._changed:
            return [event for event in self._events if event["event"] == kind]
