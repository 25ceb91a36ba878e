"""Messages on their way to JetStream, and up to which one all are stored. Pure.

Acknowledgements come in any order; a position may move only over a prefix of what was published.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _Slot(Generic[T]):
    __slots__ = ("done", "item", "size")

    def __init__(self, item: T, size: int) -> None:
        self.item = item
        self.size = size
        self.done = False


class PublishWindow(Generic[T]):
    """Bounded in count and bytes. An item alone may exceed the bytes, since it must pass too."""

    def __init__(self, count: int, size: int) -> None:
        self._count = count
        self._size = size
        self._slots: deque[_Slot[T]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def bytes(self) -> int:
        """Bytes of all items not yet passed over."""
        return self._bytes

    def has_room(self, size: int) -> bool:
        """Return whether an item of `size` bytes may be added."""
        return not self._slots or (len(self._slots) < self._count and self._bytes + size <= self._size)

    def add(self, item: T, size: int) -> _Slot[T]:
        """Add an item; the ticket is for `stored`."""
        slot = _Slot(item, size)
        self._slots.append(slot)
        self._bytes += size
        return slot

    def stored(self, slot: _Slot[T]) -> T | None:
        """Mark an item as stored. Return the last item of the prefix that is, if that has grown."""
        slot.done = True
        last: T | None = None
        while self._slots and self._slots[0].done:
            first = self._slots.popleft()
            self._bytes -= first.size
            last = first.item
        return last

    def unstored(self) -> Iterator[_Slot[T]]:
        """Iterate over the items that are not stored, oldest first."""
        return iter([slot for slot in self._slots if not slot.done])
