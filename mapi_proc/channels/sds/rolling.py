"""The Bloom filter of one's own: filled as messages come, rebuilt from the newest when it becomes too
full."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from mapi_proc.channels.sds.bloom import CAPACITY, JS, Bloom


class Window(NamedTuple):
    """When more than `most` ids are in, the filter is rebuilt from the newest `keep`, with that capacity."""

    most: int
    keep: int
    capacity: int


REFERENCE = Window(12_000, 8_000, 12_000)
"""What nim-sds does: up to 2.5 of 1000 hits are false."""

NARROW = Window(4_000, 2_000, CAPACITY)
"""At most one of a million hits is false; older messages are acknowledged by then. The default here."""


class RollingBloom:
    """See the module. Allocated with the first id."""

    def __init__(self, form: str, window: Window = NARROW) -> None:
        self._form = form
        self._window = window
        self._capacity = CAPACITY
        self._ids: dict[str, None] = {}
        self._bloom: Bloom | None = None
        self._stale = False

    def add(self, item: str) -> None:
        if self._bloom is None:
            self._bloom = Bloom(self._form, self._capacity)
        self._bloom.add(item)
        self._ids[item] = None
        if len(self._ids) > self._window.most:
            for old in list(self._ids)[: -self._window.keep]:
                del self._ids[old]
            # js readers know one size only.
            self._capacity = CAPACITY if self._form == JS else self._window.capacity
            self._stale = True

    def discard(self, item: str) -> None:
        """Remove an id: the message was dropped, and the filter must not claim it."""
        if item in self._ids:
            del self._ids[item]
            self._stale = True

    def fill(self, items: Iterable[str]) -> None:
        """Add the newest of these ids, in order, after a restart."""
        for item in deque(items, self._window.keep):
            self.add(item)

    def encode(self) -> bytes:
        """Encode for the wire; empty before the first id."""
        if self._bloom is None:
            return b""
        if self._stale:
            self._stale = False
            self._bloom = Bloom(self._form, self._capacity)
            for item in self._ids:
                self._bloom.add(item)
        return self._bloom.encode()
