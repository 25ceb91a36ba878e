"""Queue messages that a ZeroMQ socket could not take yet: per destination, in order, bounded. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

Message = Sequence[bytes]


class _Backlog:
    """The queued messages of one destination, oldest first."""

    __slots__ = ("messages", "size")

    def __init__(self) -> None:
        self.messages: deque[tuple[Message, int]] = deque()
        self.size = 0


class Backlogs:
    """Queued messages by destination. `size` is the bytes of all of them.

    The bounds are in messages and bytes per destination, and in bytes over all.
    """

    def __init__(self, messages: int, octets: int, total: int) -> None:
        self._messages: Final = messages
        self._octets: Final = octets
        self._total: Final = total
        self._by_key: dict[bytes, _Backlog] = {}
        self.size = 0

    def __contains__(self, key: bytes) -> bool:
        return key in self._by_key

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[bytes]:
        return iter(list(self._by_key))

    def add(self, key: bytes, message: Message, *, promised: bool = False, stream: bool = False) -> bool:
        """Queue a message. Return False if the bounds do not allow it. A promised one ignores them; those of
        a stream take half of each, and leave the rest to messages that are kept nowhere else."""
        part = 2 if stream else 1
        size = sum(map(len, message))
        backlog = self._by_key.get(key)
        held, count = (backlog.size, len(backlog.messages)) if backlog is not None else (0, 0)
        if not promised and (
            count >= self._messages // part
            or held + size > self._octets // part
            or self.size + size > self._total // part
        ):
            return False
        if backlog is None:
            backlog = self._by_key[key] = _Backlog()
        backlog.messages.append((message, size))
        backlog.size += size
        self.size += size
        return True

    def first(self, key: bytes) -> Message | None:
        """Return a destination's oldest message."""
        backlog = self._by_key.get(key)
        return backlog.messages[0][0] if backlog is not None else None

    def pop(self, key: bytes) -> None:
        """Remove a destination's oldest message: it was sent."""
        backlog = self._by_key[key]
        size = backlog.messages.popleft()[1]
        backlog.size -= size
        self.size -= size
        if not backlog.messages:
            del self._by_key[key]

    def drop(self, key: bytes) -> int:
        """Drop all messages of a destination. Return their number."""
        backlog = self._by_key.pop(key, None)
        if backlog is None:
            return 0
        self.size -= backlog.size
        return len(backlog.messages)

    def clear(self) -> None:
        """Drop everything."""
        self._by_key.clear()
        self.size = 0
