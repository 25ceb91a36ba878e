"""Close connections that fill the memory of this process with messages they never finish.

libzmq hands a message over when its last frame has come, and counts only finished messages against its
high-water mark: frames that all say "more follows" pile up in the pipe of their connection without a bound
and without a sign (`pipe.cpp`, `write`). MAXMSGSIZE bounds a frame, not a message. What can be seen from
outside is that the memory of the process grows fast while one connection sends without a pause and no
message of it arrives: that connection is closed, which frees what it has sent. Should the memory go on
growing, everything that is sending is closed; clients connect again, and what they had not sent was lost to
nobody.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from logos_sockets.door import Door

__all__ = ["MemoryWatch", "resident_bytes"]

log = logging.getLogger(__name__)

SUSPICIOUS: Final = 48 << 20
"""Growth within the window from which on it is looked at who sends."""
ALARMING: Final = 128 << 20
"""Growth from which on those are closed that send and finish nothing."""
UNBEARABLE: Final = 512 << 20
"""Growth from which on all are closed that send."""
_WINDOW: Final = 10.0
_LOOKS: Final = 2
"""Looks in a row at which a connection was sending."""
_GLANCES: Final = 10
_GLANCE_SECONDS: Final = 0.0002
"""A look is some glances: libzmq's thread may just have read all there was."""
_STATM: Final = Path("/proc/self/statm")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Memory of this process in use; 0 where the system does not say."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


class MemoryWatch:
    """Call `step` every `TICK`, with the doors of all sockets of this process."""

    def __init__(self, doors: Sequence[Door], measure: Callable[[], int] = resident_bytes) -> None:
        self._doors = doors
        self._measure = measure
        self._seen: deque[tuple[float, int]] = deque()
        self._sending: dict[tuple[int, int], int] = {}

    def step(self, now: float) -> None:
        """Measure, and act on fast growth."""
        size = self._measure()
        seen = self._seen
        while seen and seen[0][0] < now - _WINDOW:
            seen.popleft()
        growth = size - min((before for _, before in seen), default=size)
        seen.append((now, size))
        if growth < SUSPICIOUS:
            if self._sending or any(door.heard is not None for door in self._doors):
                self._rest()
            return
        culprits = self._look(finish_nothing=growth < UNBEARABLE)
        if growth >= ALARMING and culprits:
            for door, descriptor in culprits:
                self._cut(door, descriptor, growth)
            seen.clear()  # what was freed shows only later; growth counts from here
            self._rest()

    def _look(self, *, finish_nothing: bool) -> list[tuple[Door, int]]:
        """Connections that were sending at each of the last looks."""
        found: list[tuple[Door, int]] = []
        sending: dict[tuple[int, int], int] = {}
        for number, door in enumerate(self._doors):
            heard = door.heard or set()
            for descriptor in _sending_now(door):
                if finish_nothing and descriptor in heard:
                    continue
                looks = self._sending.get((number, descriptor), 0) + 1
                sending[number, descriptor] = looks
                if looks >= _LOOKS:
                    found.append((door, descriptor))
            door.heard = set()
        self._sending = sending
        return found

    def _cut(self, door: Door, descriptor: int, growth: int) -> None:
        who = door.cut(descriptor)
        if who is not None:
            door.counters.flooding += 1
            log.warning(
                "%s: closed the connection of %s: it sends without end and memory grew by %d MiB",
                door.name,
                who,
                growth >> 20,
            )

    def _rest(self) -> None:
        self._sending.clear()
        for door in self._doors:
            door.heard = None


def _sending_now(door: Door) -> set[int]:
    found = set(door.unread())
    for _ in range(_GLANCES):
        time.sleep(_GLANCE_SECONDS)
        found.update(door.unread())
    return found
