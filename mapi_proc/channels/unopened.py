"""Segments that the app is decrypting. Pure.

Their bytes are in the app's stream and in the channel's rows; here is only what finishes them.

After a restart the plain bytes of what the app had decrypted are gone, and it is asked again by new events:
behind those of later segments that are on its stream from before. So these come back too early, and their
payloads would overtake: they wait here for their turn.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

MAX_UNOPENED: Final = 10_000
MAX_UNOPENED_BYTES: Final = 64 << 20


class UnopenedSegment(NamedTuple):
    """One segment; `order` is the Lamport time of its message."""

    message_id: str
    sender_id: str
    order: int
    size: int


class AnsweredSegment(NamedTuple):
    """A segment decrypted by the app. `content` None: decryption failed, for the reason `error`."""

    segment: UnopenedSegment
    content: bytes | None
    error: str


class Unopened:
    """Bounded: beyond `max_count` or `max_bytes` the longest waiting segments are given up."""

    def __init__(self, max_count: int = MAX_UNOPENED, max_bytes: int = MAX_UNOPENED_BYTES) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._segments: OrderedDict[str, UnopenedSegment] = OrderedDict()
        self._turns: OrderedDict[str, bool] = OrderedDict()
        """Restored segments in their order, from the first that the app is asked for again (True) on."""
        self._early: dict[str, AnsweredSegment] = {}
        """Decrypted segments that wait for earlier ones."""
        self._ready: list[AnsweredSegment] = []
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._segments)

    def add(self, segment: UnopenedSegment, asked_again: bool | None = None) -> list[str]:
        """Wait for a segment. Return the ids of those that were dropped to make room.

        After a restart segments come in the log's order. `asked_again`: True if a new event asks the app for
        this one, False if an event that is still on its stream does."""
        if asked_again or (asked_again is False and self._turns):
            self._turns[segment.message_id] = asked_again
        self._segments[segment.message_id] = segment
        self.bytes += segment.size
        gone: list[str] = []
        while len(self._segments) > 1 and (
            len(self._segments) > self._max_count or self.bytes > self._max_bytes
        ):
            name = next(iter(self._segments))
            self._take(name)
            gone.append(name)
            self._turns.pop(name, None)
            self._go_on()
        return gone

    def answer(self, message_id: str, content: bytes | None, error: str) -> bool:
        """Take a segment that came back; it is among `ready` when its turn comes. Return False if it is not
        (or no longer) waited for."""
        segment = self._segments.get(message_id)
        if segment is None or message_id in self._early:
            return False
        opened = AnsweredSegment(segment, content, error)
        if message_id in self._turns:
            self._early[message_id] = opened
            self._go_on()
        else:
            self._take(message_id)
            self._ready.append(opened)
        return True

    def ready(self) -> list[AnsweredSegment]:
        """Return what has come back since the last call and need not wait any longer, in order."""
        ready, self._ready = self._ready, []
        return ready

    def _go_on(self) -> None:
        while self._turns:
            name, asked_again = next(iter(self._turns.items()))
            if name in self._early:
                self._take(name)
                self._ready.append(self._early.pop(name))
            elif asked_again:
                return
            del self._turns[name]  # not asked for again: its event comes when it comes, nothing waits for it

    def _take(self, name: str) -> None:
        self.bytes -= self._segments.pop(name).size
