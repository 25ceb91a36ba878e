"""The unacknowledged events of one app, as its readers see them. Pure.

Entries are kept from the app's last acknowledgement on, so that a second or returning reader can begin
there. Entries have an index beside the stream's seq, which restarts with the stream.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final, NamedTuple

from logos_client.events import Event, LinkLost, LinkRestored

LOCAL_EVENTS: Final = (LinkLost, LinkRestored)
"""Events about the connection itself: the journal does not have them, so they have no position."""
_new_tuple: Final = tuple.__new__
"""Builds a named tuple in one step: the class's own `__new__` is called with each event."""


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
    """An event and its number here."""

    number: int
    event: Event
    size: int

    @property
    def position(self) -> JournalPosition | None:
        """Its position; None for an event about the connection itself, which the journal does not have."""
        event = self.event
        if isinstance(event, LOCAL_EVENTS):
            return None
        return JournalPosition(event.stream_id, event.seq)


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

    def append(self, event: Event, size: int) -> None:
        """Add the newest event."""
        self._entries.append(_new_tuple(WindowEntry, (self._next, event, size)))
        self._next += 1
        self.bytes += size

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
        """Return the index at which a reader that has seen `position` resumes: the oldest entry's if that
        covers none."""
        return self._behind(position, self.first)

    def _behind(self, position: JournalPosition, otherwise: int) -> int:
        """Return the index after the last entry that `position` covers, `otherwise` if it covers none."""
        stream_id, seq = position
        for entry in reversed(self._entries):
            event = entry.event
            if not isinstance(event, LOCAL_EVENTS) and event.seq <= seq and event.stream_id == stream_id:
                return entry.number + 1
        return otherwise

    def before(self, number: int) -> JournalPosition | None:
        """Return the last position before an entry, None if no entry before it has one."""
        held = islice(self._entries, max(0, number - self.first))
        return next((one.position for one in reversed(list(held)) if one.position is not None), None)

    def acknowledge(self, position: JournalPosition) -> None:
        """Drop everything up to a position; a position of another stream changes nothing."""
        self.drop_before(self._behind(position, 0))

    def drop_before(self, number: int) -> None:
        entries = self._entries
        for _ in range(min(len(entries), max(0, number - self.first))):
            self.bytes -= entries.popleft().size

    def clear(self) -> None:
        """Drop everything: the Messaging API sends the journal from its start."""
        self._entries.clear()
        self.bytes = 0
