"""The unacknowledged events of one app, as its readers see them. Pure.

Entries are kept from the app's last acknowledgement on, so that a second or returning reader can begin
there. Entries have an index beside the stream's seq, which restarts with the stream.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import NamedTuple

from logos_client.events import Event

__all__ = ["JournalPosition", "JournalWindow", "WindowEntry"]


class JournalPosition(NamedTuple):
    """Identifies an event of an app's journal permanently."""

    stream_id: bytes
    seq: int

    @classmethod
    def parse(cls, text: str) -> JournalPosition:
        """Read `<stream id in hex>:<seq>`, an SSE event's id. Raises ValueError."""
        stream, colon, seq = text.partition(":")
        if not colon or len(stream) != 32 or not seq.isascii() or not seq.isdigit() or len(seq) > 19:
            raise ValueError(f"{text[:80]!r} is not <stream id>:<seq>")
        return cls(bytes.fromhex(stream), int(seq))

    def __str__(self) -> str:
        return f"{self.stream_id.hex()}:{self.seq}"


class WindowEntry(NamedTuple):
    """An event; `position` is None for one about the connection itself, which the journal does not have."""

    number: int
    position: JournalPosition | None
    event: Event
    size: int


class JournalWindow:
    """Entries in order; the oldest leave by `acknowledge`."""

    def __init__(self) -> None:
        self._entries: deque[WindowEntry] = deque()
        self._next = 0
        self.bytes = 0
        """Total size of all entries."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def first(self) -> int:
        """Index of the oldest entry; `head` if empty."""
        return self._entries[0].number if self._entries else self._next

    @property
    def head(self) -> int:
        """Index of the next entry."""
        return self._next

    def append(self, event: Event, position: JournalPosition | None, size: int) -> WindowEntry:
        """Add the newest event."""
        entry = WindowEntry(self._next, position, event, size)
        self._entries.append(entry)
        self._next += 1
        self.bytes += size
        return entry

    def batch(self, index: int, max_bytes: int) -> list[WindowEntry]:
        """Return the entries from an index on, or from the oldest one after it; at least one, if any."""
        found: list[WindowEntry] = []
        for entry in islice(self._entries, max(0, index - self.first), None):
            max_bytes -= entry.size
            if max_bytes < 0 and found:
                break
            found.append(entry)
        return found

    def after(self, position: JournalPosition) -> int:
        """Return the index at which a reader that has seen `position` resumes; None: at the oldest entry."""
        return self._behind(position, self.first)

    def _behind(self, position: JournalPosition, otherwise: int) -> int:
        """Return the index after the last entry that `position` covers, `otherwise` if it covers none."""
        for entry in reversed(self._entries):
            held = entry.position
            if held is not None and held.stream_id == position.stream_id and held.seq <= position.seq:
                return entry.number + 1
        return otherwise

    def before(self, number: int) -> JournalPosition | None:
        """Return the last position before an entry, None if no entry before it has one."""
        held = islice(self._entries, max(0, number - self.first))
        return next((one.position for one in reversed(list(held)) if one.position is not None), None)

    def acknowledge(self, position: JournalPosition) -> None:
        """Drop everything up to a position; a position of another stream changes nothing."""
        end = self._behind(position, 0)
        while self._entries and self._entries[0].number < end:
            self.bytes -= self._entries.popleft().size

    def clear(self) -> None:
        """Drop everything: the Messaging API sends the journal from its start."""
        self._entries.clear()
        self.bytes = 0
