"""Messages that wait for their predecessors, and the missing messages.

A reference to a message that is not earlier in the log's order cannot be true: a sender's Lamport time is
past everything it has delivered. Such references are ignored, so that messages cannot wait for each other in
a circle.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Final

from mapi_proc.channels.sds.log import Log
from mapi_proc.channels.sds.message import HistoryEntry, SdsMessage

_REFERENCE: Final = 256
"""Memory of one reference of a waiting message, as measured: its entry, and its places in the indexes."""


@dataclass(slots=True)
class Waiting:
    """A message and what it waits for: missing messages and other waiting ones."""

    message: SdsMessage
    raw: bytes
    hint: bytes
    body: object
    needs: set[str]
    waited: bool = False

    @property
    def cost(self) -> int:
        """Approximate bytes of memory. References of a few bytes each become objects of many."""
        return len(self.raw) + _REFERENCE * len(self.message.causal_history)


@dataclass(slots=True)
class Missing:
    """A missing message that others refer to."""

    entry: HistoryEntry
    since: float
    request_at: float
    retrieve_at: float
    requests: int = 0
    retrievals: int = 0
    needed_by: set[str] = field(default_factory=set)


class Incoming:
    """The incoming buffer. Bounds are the caller's: see `bytes`, `waiting` and `missing`."""

    def __init__(self) -> None:
        self.waiting: dict[str, Waiting] = {}
        self.missing: dict[str, Missing] = {}
        self.bytes = 0
        self._needed_by: dict[str, set[str]] = {}

    def needs(self, message: SdsMessage, log: Log) -> tuple[set[str], list[HistoryEntry]]:
        """Return the predecessors that a message must wait for, and which of them are missing."""
        needs: set[str] = set()
        missing = []
        for entry in message.causal_history:
            name = entry.message_id
            if name == message.message_id or name in needs or log.settled(name):
                continue
            waiting = self.waiting.get(name)
            if waiting is not None:
                if waiting.message.key < message.key:
                    needs.add(name)
                continue
            needs.add(name)
            missing.append(entry)
        return needs, missing

    def add(self, waiting: Waiting) -> None:
        """Add a waiting message, whose predecessors are in `waiting` or `missing` already."""
        name = waiting.message.message_id
        waiting.waited = True
        self.waiting[name] = waiting
        self.bytes += waiting.cost
        for need in waiting.needs:
            self._needed_by.setdefault(need, set()).add(name)
            if need in self.missing:
                self.missing[need].needed_by.add(name)

    def arrived(self, message: SdsMessage) -> list[Waiting]:
        """Record that a message came, so it is no longer missing. Return the messages freed because their
        reference to it was false."""
        self.missing.pop(message.message_id, None)
        freed = []
        for name in sorted(self._needed_by.get(message.message_id, ())):
            waiting = self.waiting[name]
            if waiting.message.key <= message.key:
                self._met(waiting, message.message_id)
                if not waiting.needs:
                    freed.append(self._take(name))
        return freed

    def settle(self, message_id: str) -> list[Waiting]:
        """Remove and return the messages that waited for this one alone (delivered now, or lost), in the
        log's order."""
        self.missing.pop(message_id, None)
        freed = []
        for name in self._needed_by.pop(message_id, ()):
            waiting = self.waiting[name]
            waiting.needs.discard(message_id)
            if not waiting.needs:
                freed.append(self._take(name))
        return sorted(freed, key=lambda waiting: waiting.message.key)

    def highest(self) -> Waiting:
        """Return the waiting message that is last in the log's order: the first to drop."""
        return max(self.waiting.values(), key=lambda waiting: waiting.message.key)

    def evict(self, message_id: str) -> Waiting:
        """Remove a waiting message, and missing messages that only it refers to."""
        waiting = self._take(message_id)
        for need in waiting.needs:
            self._unlink(need, message_id)
            missing = self.missing.get(need)
            if missing is not None:
                missing.needed_by.discard(message_id)
                if not missing.needed_by:
                    del self.missing[need]
        return waiting

    def _take(self, name: str) -> Waiting:
        waiting = self.waiting.pop(name)
        self.bytes -= waiting.cost
        return waiting

    def _met(self, waiting: Waiting, need: str) -> None:
        waiting.needs.discard(need)
        self._unlink(need, waiting.message.message_id)

    def _unlink(self, need: str, name: str) -> None:
        others = self._needed_by.get(need)
        if others is not None:
            others.discard(name)
            if not others:
                del self._needed_by[need]


class Cascade:
    """A queue of messages ready for delivery, in the log's order."""

    def __init__(self, first: list[Waiting]) -> None:
        self._heap = [(waiting.message.key, waiting) for waiting in first]
        heapify(self._heap)

    def push(self, ready: list[Waiting]) -> None:
        for waiting in ready:
            heappush(self._heap, (waiting.message.key, waiting))

    def pop(self) -> Waiting | None:
        return heappop(self._heap)[1] if self._heap else None
