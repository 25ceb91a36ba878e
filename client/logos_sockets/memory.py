"""Close connections that fill this process's memory with messages they never finish.

libzmq delivers a message once its last frame has arrived, and counts only complete messages against its
high-water mark: frames with the "more" flag accumulate in their connection's pipe without a bound and
without notice (`pipe.cpp`, `write`). MAXMSGSIZE bounds a frame, not a message. What can be observed from
outside: the process's memory grows fast while one connection sends without pause and no message of it
arrives. That connection is closed, which frees what it has sent. If the memory keeps growing, every sending
connection is closed; clients reconnect, and only unfinished messages are lost.

A trickle stays below what is fast. So memory that has grown by as much over any time starts a longer watch,
at whose end the clients are closed that finished no message in it. An idle one only has to connect again. A
subscriber is idle by nature, and is closed only if it was seen sending, or memory has grown beyond bearing.
Growth with another cause (caches, queues) costs no more than that: the next watch begins a step higher.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from logos_sockets.door import Door

log = logging.getLogger(__name__)

SUSPICIOUS: Final = 48 << 20
"""Growth within the window above which senders are watched."""
ALARMING: Final = 128 << 20
"""Growth above which connections that send without finishing a message are closed."""
UNBEARABLE: Final = 512 << 20
"""Growth above which every sending connection is closed."""
_WINDOW: Final = 10.0
_PATIENCE: Final = 60.0
"""Seconds of a watch for trickles: far more than an honest client takes to send one message."""
_LOOKS: Final = 2
"""Consecutive samples at which a connection must have been sending."""
_GLANCES: Final = 10
_FEW_GLANCES: Final = 2
_GLANCE_SECONDS: Final = 0.0002
"""Probes per sample: libzmq's thread may just have read everything."""
Connection: TypeAlias = tuple[int, int, int]
"""The door's number, the descriptor, and the inode that distinguishes it from a later one of this number."""
_STATM: Final = Path("/proc/self/statm")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 if the system does not report it."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


@dataclass(slots=True)
class _Trickle:
    """A watch for trickles. `sighted`: subscribers seen sending since they last finished a message."""

    began: float
    present: set[Connection]
    finished: set[Connection] = field(default_factory=set)
    sighted: set[Connection] = field(default_factory=set)

    def note(self, finished: set[Connection], sighted: set[Connection]) -> None:
        self.finished |= finished
        self.sighted = (self.sighted | sighted) - finished


class MemoryWatch:
    """Watches the growth of memory.

    Call `step` every `TICK`, with the doors of all sockets of this process.
    """

    def __init__(self, doors: Sequence[Door], measure: Callable[[], int] = resident_bytes) -> None:
        self._doors = doors
        self._measure = measure
        self._seen: deque[tuple[float, int]] = deque()
        self._sending: dict[Connection, int] = {}
        self._lowest = self._base = sys.maxsize
        self._trickle: _Trickle | None = None

    def step(self, now: float) -> None:
        """Measure, and act on growth."""
        size = self._measure()
        seen = self._seen
        while seen and seen[0][0] < now - _WINDOW:
            seen.popleft()
        growth = size - min((before for _, before in seen), default=size)
        # libzmq holds a message in its own memory until the last byte is there, and reports nothing before:
        # only the growth of the process shows a sender that never finishes.
        seen.append((now, size))
        self._lowest, self._base = min(self._lowest, size), min(self._base, size)
        finished = self._finished()
        if self._trickle is None and size - self._base >= ALARMING:
            self._trickle = _Trickle(now, self._connections(self._doors))
        if self._trickle is not None:
            self._trickle.note(finished, self._glance(_FEW_GLANCES, publishers=True))
            if now - self._trickle.began >= _PATIENCE:
                self._end_trickle(self._trickle, size)
        if growth >= SUSPICIOUS:
            culprits = self._look(finished if growth < UNBEARABLE else set())
            if growth >= ALARMING and culprits:
                self._cut_all(culprits, growth)
                seen.clear()  # freed memory shows only later; measure growth from here
        elif self._sending:
            self._sending.clear()
        watching = growth >= SUSPICIOUS or self._trickle is not None
        for door in self._doors:
            door.heard = set() if watching else None

    def _finished(self) -> set[Connection]:
        """Return the connections of which a message has arrived since the last step."""
        return {
            (number, descriptor, door.accepted.inode(descriptor))
            for number, door in enumerate(self._doors)
            for descriptor in door.heard or ()
        }

    def _glance(self, glances: int, *, publishers: bool = False) -> set[Connection]:
        """Return who is sending now; `publishers`: only their subscribers."""
        return {
            (number, descriptor, door.accepted.inode(descriptor))
            for number, door in enumerate(self._doors)
            if door.publishes or not publishers
            for descriptor in _sending_now(door, glances)
        }

    def _connections(self, doors: Sequence[Door]) -> set[Connection]:
        return {
            (number, descriptor, door.accepted.inode(descriptor))
            for number, door in enumerate(self._doors)
            if door in doors
            for descriptor in door.accepted.descriptors()
        }

    def _look(self, finished: set[Connection]) -> set[Connection]:
        """Return the connections that were sending at each of the last samples."""
        sending = self._glance(_GLANCES) - finished
        self._sending = {each: self._sending.get(each, 0) + 1 for each in sending}
        return {each for each, looks in self._sending.items() if looks >= _LOOKS}

    def _end_trickle(self, trickle: _Trickle, size: int) -> None:
        everyone = size - self._lowest >= UNBEARABLE
        speakers = self._connections([door for door in self._doors if everyone or not door.publishes])
        self._cut_all((speakers & trickle.present) - trickle.finished | trickle.sighted, size - self._base)
        self._trickle = None
        self._base = size

    def _cut_all(self, culprits: set[Connection], growth: int) -> None:
        for number, descriptor, inode in culprits:
            door = self._doors[number]
            if door.accepted.inode(descriptor) == inode:
                self._cut(door, descriptor, growth)
        self._sending.clear()

    def _cut(self, door: Door, descriptor: int, growth: int) -> None:
        who = door.accepted.cut(descriptor)
        if who is not None:
            door.counters.flooding += 1
            log.warning(
                "%s: closed the connection of %s: it finishes no message while memory grew by %d MiB",
                door.name,
                who,
                growth >> 20,
            )


def _sending_now(door: Door, glances: int) -> set[int]:
    # libzmq's I/O thread empties the sockets by itself: one probe may find nothing of a busy sender.
    found = set(door.accepted.unread())
    for _ in range(glances):
        time.sleep(_GLANCE_SECONDS)
        found.update(door.accepted.unread())
    return found
