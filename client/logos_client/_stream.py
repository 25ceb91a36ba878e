"""The client's end of an app's stream, without I/O: which events to keep, which are duplicates, how much
credit and which ack are due.

The queue is bounded by the credit granted to the server: bytes received and not yet handled, plus bytes
that the server may still send, are at most the window (plus one event, since one may overdraw).
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, TypeAlias

from ipc_schema.errors import IpcError
from ipc_schema.mapi import events as wire
from ipc_schema.mapi.event_codec import decode_app_event, decode_received, event_cost
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
#: An event, its cost, its stream and seq if it has any, whether it is the client's own. A plain tuple, and
#: a `Position` only where one is asked for: whatever is made here is made for each event.
_Queued: TypeAlias = tuple[Event, int, bytes | None, int, bool]


class AppStreamReader:
    """One app's stream, over any number of connections.

    `window`: bytes of events that may be queued here or in flight.
    """

    def __init__(self, window: int) -> None:
        if window < 1:
            raise ValueError("the credit window needs at least one byte")
        self.window = window
        self._least_grant = max(1, window // 4)
        self._counters: StreamCounters = StreamCounters()
        self._received = 0
        self.stream_id: bytes | None = None
        self.last_seq: int = 0
        self._queue: deque[_Queued] = deque()
        self._queued_bytes = 0
        self._local = 0
        self._in_hand: _Queued | None = None
        self._received_cost = 0  # since the last hello
        self._granted = 0  # since the last hello
        self._handled_stream: bytes | None = None
        self._handled_seq = 0
        self._acked: Position | None = None

    @property
    def counters(self) -> StreamCounters:
        """What has come so far."""
        self._counters.received = self._received
        return self._counters

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
        message = decode_received(header, payload, MessageReceived)
        if message is not None and message[1] == self.last_seq + 1 and message[0] == self.stream_id:
            # What comes most: the next message. All else, a message out of order too, is looked at below.
            cost = len(header) + len(payload)
            self._received_cost += cost
            self.last_seq += 1
            self._received += 1
            self._put(message, cost, self.stream_id, self.last_seq)
            return message
        try:
            event = decode_app_event(header)
        except IpcError:
            self._counters.garbage += 1
            return None
        kind = type(event)
        if kind is AppHeartbeat:
            return None
        if kind is wire.TakenOver:
            taken_over = TakenOver(*event)
            self._put(taken_over, 0, None, 0)
            return taken_over
        cost = event_cost(header, payload)
        self._received_cost += cost
        stream_id, seq = event[0], event[1]
        if stream_id != self.stream_id:
            self._counters.garbage += 1
            return None
        if seq != self.last_seq + 1:
            if seq <= self.last_seq:
                self._counters.duplicates += 1
                return None
            if not (isinstance(event, wire.EventsDropped) and event.first <= self.last_seq + 1):
                self._report_missing(event[2], seq)
        self.last_seq = seq
        if kind is UnknownAppEvent:
            self._counters.unknown += 1
            self._handled_with_the_last(stream_id, seq)
            return None
        self._received += 1
        shown: Event
        if kind in _WITH_PAYLOAD:
            cls, at = _WITH_PAYLOAD[kind]
            shown = _new_tuple(cls, (*event[:at], payload, *event[at:]))
        else:
            shown = _new_tuple(SHOWN[kind], event)
        self._put(shown, cost, stream_id, seq)
        return shown

    def _handled_with_the_last(self, stream_id: bytes, seq: int) -> None:
        """Count an event that is not shown as handled together with the event before it."""
        if self._queue:
            event, cost, _, _, local = self._queue[-1]
            self._queue[-1] = (event, cost, stream_id, seq, local)
        elif self._in_hand is not None:
            event, cost, _, _, local = self._in_hand
            self._in_hand = (event, cost, stream_id, seq, local)
        else:
            self._handled_stream, self._handled_seq = stream_id, seq

    def _report_missing(self, time_ns: int, seq: int) -> None:
        """Report events that the server skipped without saying so."""
        assert self.stream_id is not None
        first, last = self.last_seq + 1, seq - 1
        self._counters.missing += seq - first
        self._put(EventsDropped(self.stream_id, last, time_ns, first, last, "never received"), 0, None, 0)

    def put_local(self, event: LinkLost | LinkRestored) -> None:
        """Queue an event of the client's own. Beyond the bound the oldest of them are dropped."""
        if self._local >= _MAX_LOCAL_EVENTS:
            for index, queued in enumerate(self._queue):
                if queued[4]:
                    del self._queue[index]
                    self._local -= 1
                    self._counters.local_dropped += 1
                    break
        self._local += 1
        self._queue.append((event, 0, None, 0, True))

    def _put(self, event: Event, cost: int, stream_id: bytes | None, seq: int) -> None:
        self._queue.append((event, cost, stream_id, seq, False))
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
        if queued[4]:
            self._local -= 1
        return queued[0]

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
        _, cost, stream_id, seq, _ = queued
        self._queued_bytes -= cost
        if stream_id is not None:
            self._handled_stream, self._handled_seq = stream_id, seq

    def position_of(self, event: Event | Position | None) -> Position | None:
        """Return the position of an event, or of the last handled one; None if there is none."""
        if event is None:
            return None if self._handled_stream is None else Position(self._handled_stream, self._handled_seq)
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
        if self._handled_stream is None or self._handled_stream != self.stream_id:
            return None
        if self._acked is not None and self._handled_seq <= self._acked.seq:
            return None
        return Position(self._handled_stream, self._handled_seq)

    def acked(self, position: Position) -> None:
        """Record that `position` was acknowledged."""
        if position.stream_id == self.stream_id and (self._acked is None or position.seq > self._acked.seq):
            self._acked = position
