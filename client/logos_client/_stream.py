"""The client's end of an app's stream, without I/O: which events to keep, which are duplicates, how much
credit and which ack are due.

The queue is bounded by the credit granted to the server: bytes received and not yet handled, plus bytes
that the server may still send, are at most the window (plus one event, since one may overdraw).
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, NamedTuple

from ipc_schema.errors import IpcError
from ipc_schema.mapi import events as wire
from ipc_schema.mapi.event_codec import decode_app_event, event_cost
from ipc_schema.mapi.events import AppHeartbeat, UnknownAppEvent
from logos_client._stream_types import Position, StreamCounters
from logos_client.events import (
    SHOWN,
    ChannelMessageReceived,
    ChannelSegmentReceived,
    Event,
    EventsDropped,
    LinkLost,
    LinkRestored,
    MessageReceived,
    TakenOver,
)

#: Most client-made events kept while the app does not read: a flapping server causes two a second.
_MAX_LOCAL_EVENTS: Final = 64
#: Kinds that have a payload, and behind how many of the header's fields it stands.
_WITH_PAYLOAD: Final[dict[type[Any], tuple[type[Any], int]]] = {
    wire.MessageReceived: (MessageReceived, 4),
    wire.ChannelMessageReceived: (ChannelMessageReceived, 5),
    wire.ChannelSegmentReceived: (ChannelSegmentReceived, 5),
}
#: Builds a named tuple from a sequence in one step: the class's own `__new__` costs as much as decoding.
_new_tuple: Final = tuple.__new__


class _Queued(NamedTuple):
    event: Event
    cost: int
    position: Position | None
    local: bool = False


class AppStreamReader:
    """One app's stream, over any number of connections.

    `window`: bytes of events that may be queued here or in flight.
    """

    def __init__(self, window: int) -> None:
        if window < 1:
            raise ValueError("the credit window needs at least one byte")
        self.window = window
        self._least_grant = max(1, window // 4)
        self.counters: StreamCounters = StreamCounters()
        self.stream_id: bytes | None = None
        self.last_seq: int = 0
        self._queue: deque[_Queued] = deque()
        self._queued_bytes = 0
        self._local = 0
        self._in_hand: _Queued | None = None
        self._received_cost = 0  # since the last hello
        self._granted = 0  # since the last hello
        self._handled: Position | None = None
        self._acked: Position | None = None

    # -- the connection --------------------------------------------------------------------------------------

    def opening_credit(self) -> int:
        """Return the credit for a hello: the window, less what is still queued here."""
        return max(0, self.window - self._queued_bytes)

    def greeted(self, stream_id: bytes, acked: int, credit: int) -> Position | None:
        """Handle an accepted hello that granted `credit`.

        Return where the previous stream ended if this is another one.
        """
        self._received_cost = 0
        self._granted = credit
        lost: Position | None = None
        if self.stream_id != stream_id:
            if self.stream_id is not None:
                lost = Position(self.stream_id, self.last_seq)
            self.stream_id = stream_id
            self.last_seq = acked
        self.last_seq = max(self.last_seq, acked)
        self._acked = Position(stream_id, acked)
        return lost

    # -- events in -------------------------------------------------------------------------------------------

    def receive(self, frames: list[bytes]) -> Event | None:
        """Queue an event from its frames. Return None if it is not for the app."""
        header = frames[1]
        payload = frames[2] if len(frames) > 2 else b""
        try:
            event = decode_app_event(header)
        except IpcError:
            self.counters.garbage += 1
            return None
        kind = type(event)
        if kind is AppHeartbeat:
            return None
        if kind is wire.TakenOver:
            taken_over = TakenOver(*event)
            self._put(taken_over, 0, None)
            return taken_over
        cost = event_cost(header, payload)
        self._received_cost += cost
        stream_id, seq = event[0], event[1]
        if stream_id != self.stream_id:
            self.counters.garbage += 1
            return None
        if seq != self.last_seq + 1:
            if seq <= self.last_seq:
                self.counters.duplicates += 1
                return None
            if not (isinstance(event, wire.EventsDropped) and event.first <= self.last_seq + 1):
                self._report_missing(event[2], seq)
        self.last_seq = seq
        position = _new_tuple(Position, (stream_id, seq))
        if kind is UnknownAppEvent:
            self.counters.unknown += 1
            self._handled_with_the_last(position)
            return None
        self.counters.received += 1
        shown: Event
        if kind in _WITH_PAYLOAD:
            cls, at = _WITH_PAYLOAD[kind]
            shown = _new_tuple(cls, (*event[:at], payload, *event[at:]))
        else:
            shown = _new_tuple(SHOWN[kind], event)
        self._put(shown, cost, position)
        return shown

    def _handled_with_the_last(self, position: Position) -> None:
        """Count an event that is not shown as handled together with the event before it."""
        if self._queue:
            self._queue[-1] = self._queue[-1]._replace(position=position)
        elif self._in_hand is not None:
            self._in_hand = self._in_hand._replace(position=position)
        else:
            self._handled = position

    def _report_missing(self, time_ns: int, seq: int) -> None:
        """Report events that the server skipped without saying so."""
        assert self.stream_id is not None
        first, last = self.last_seq + 1, seq - 1
        self.counters.missing += seq - first
        self._put(EventsDropped(self.stream_id, last, time_ns, first, last, "never received"), 0, None)

    def put_local(self, event: LinkLost | LinkRestored) -> None:
        """Queue an event of the client's own. Beyond the bound the oldest of them are dropped."""
        if self._local >= _MAX_LOCAL_EVENTS:
            for index, queued in enumerate(self._queue):
                if queued.local:
                    del self._queue[index]
                    self._local -= 1
                    self.counters.local_dropped += 1
                    break
        self._local += 1
        self._queue.append(_Queued(event, 0, None, local=True))

    def _put(self, event: Event, cost: int, position: Position | None) -> None:
        self._queue.append(_new_tuple(_Queued, (event, cost, position, False)))
        self._queued_bytes += cost

    # -- events out ------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def queued_bytes(self) -> int:
        """Bytes of events queued here or held by the app, counted as credit."""
        return self._queued_bytes

    def take(self) -> Event | None:
        """Return the next event, which the app then holds; the previous one counts as handled."""
        if self._in_hand is not None:
            self.handled()
        if not self._queue:
            return None
        queued = self._in_hand = self._queue.popleft()
        if queued.local:
            self._local -= 1
        return queued.event

    def put_back(self) -> None:
        """Give back the event in hand: it was not handled."""
        queued, self._in_hand = self._in_hand, None
        if queued is not None:
            self._queue.appendleft(queued)

    def handled(self) -> None:
        """Count the event that the app holds as handled: its bytes may be granted again."""
        queued = self._in_hand
        if queued is None:
            return
        self._in_hand = None
        self._queued_bytes -= queued.cost
        if queued.position is not None:
            self._handled = queued.position

    def position_of(self, event: Event | Position | None) -> Position | None:
        """Return the position of an event, or of the last handled one; None if there is none."""
        if event is None:
            return self._handled
        if isinstance(event, Position):
            return event
        if isinstance(event, LinkLost | LinkRestored | TakenOver):
            return None
        return Position(event.stream_id, event.seq)

    # -- what is due to the server ---------------------------------------------------------------------------

    def credit_due(self) -> int | None:
        """Return the new total to grant once a quarter of the window can be returned, else None."""
        room = self.window - self._queued_bytes
        total = self._received_cost + room if room > 0 else self._received_cost
        return total if total - self._granted >= self._least_grant else None

    def granted(self, total: int) -> None:
        """Record that `credit_due` was sent."""
        self._granted = total

    def ack_due(self) -> Position | None:
        """Return the last position handled but not acknowledged, or None."""
        handled = self._handled
        if handled is None or handled.stream_id != self.stream_id:
            return None
        if self._acked is not None and handled.seq <= self._acked.seq:
            return None
        return handled

    def acked(self, position: Position) -> None:
        """Record that `position` was acknowledged."""
        if position.stream_id == self.stream_id and (self._acked is None or position.seq > self._acked.seq):
            self._acked = position
