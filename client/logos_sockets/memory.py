"""Close connections that fill this process's memory with messages they never finish.

libzmq delivers a message once its last frame has arrived, and counts only complete messages against its
high-water mark: frames with the "more" flag accumulate in their connection's pipe without a bound and
without notice (`pipe.cpp`, `write`). MAXMSGSIZE bounds a frame, not a message. What can be observed from
outside: the process's memory grows fast while one connection sends without pause and no message of it
arrives. That connection is closed, which frees what it has sent. If the memory keeps growing, every sending
connection is closed; clients reconnect, and only unfinished messages are lost.
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
"""Growth within the window above which senders are watched."""
ALARMING: Final = 128 << 20
"""Growth above which connections that send without finishing a message are closed."""
UNBEARABLE: Final = 512 << 20
"""Growth above which every sending connection is closed."""
_WINDOW: Final = 10.0
_LOOKS: Final = 2
"""Consecutive samples at which a connection must have been sending."""
_GLANCES: Final = 10
_GLANCE_SECONDS: Final = 0.0002
"""Probes per sample: libzmq's thread may just have read everything."""
_STATM: Final = Path("/proc/self/statm")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 if the system does not report it."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


class MemoryWatch:
    """Watches the growth of memory.

    Call `step` every `TICK`, with the doors of all sockets of this process.
    """

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
            seen.clear()  # freed memory shows only later; measure growth from here
            self._rest()

    def _look(self, *, finish_nothing: bool) -> list[tuple[Door, int]]:
        """Return the connections that were sending at each of the last samples."""
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
