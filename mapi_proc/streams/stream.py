"""Common to both kinds of app stream: order, credit, acknowledgement, one connection at a time.

A stream gives every event its seq and sends it to the attached connection once credit allows and nothing
older waits. Sending is a plain call: a stream has no task, no loop, and no queue beyond its bounds.

Seqs, always `acked` ≤ … ≤ `last_seq`:

- `acked`: the app has acknowledged everything up to here.
- `dropped`: the bounds removed everything up to here that was not acknowledged. What the app had not
  received yet is replaced by one `events_dropped` event under the seq of the last event removed.
- `_sent`: sent on this connection (or acknowledged before it).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from ipc_schema.mapi.event_codec import AppEventEncoder, encode_app_event, pack_fields
from ipc_schema.mapi.events import AppEventKind
from mapi_proc.database import Batch

PUMP_EVENTS: Final = 256
"""Most events sent before other streams get their turn."""

_NO_FIELDS: Final = pack_fields()

Defer = Callable[[Callable[[], None]], object]
"""Schedules a call: an event loop's `call_soon`."""


EventSender = Callable[[bytes, bytes], bool]
"""Sends one event (header, payload). False: not taken (the connection's queue is full, or the peer is gone);
`pump` when it is writable."""


class AckRefusedError(ValueError):
    """The app acknowledges a seq that was never sent."""


class AppStream(ABC):
    """One app's stream of events.

    The producer calls `append` for each event; `attach`, `grant`, `ack`, `pump` and `detach` come from the
    connection.
    """

    durable: bool
    app_id = 0
    """The named app's id in the database; 0 for an ephemeral one."""

    def __init__(self, stream_id: bytes, defer: Defer) -> None:
        self.stream_id = stream_id
        self.last_seq = 0
        self.acked = 0
        self.dropped = 0
        self.drop_time = 0
        self.drop_reason = ""
        self.events_dropped = 0
        self._encode = AppEventEncoder(stream_id).encode
        self._defer = defer
        self._deferred = False
        self._send: EventSender | None = None
        self._credit = 0
        self._spent = 0
        self._sent = 0

    # --- the appending side ---------------------------------------------------------------------------------

    @abstractmethod
    def append(
        self,
        kind: int,
        time_ns: int,
        fields: bytes,
        payload: bytes = b"",
        batch: Batch | None = None,
        payload_id: int = 0,
    ) -> int:
        """Add an event. Return its seq.

        `fields` is the result of `ipc_schema.mapi.event_codec.pack_fields` for this kind. A durable stream
        needs the `batch` of this input and sends once that is on disk; `payload_id` says that the payload is
        stored there already (`Batch.share_payload`).
        """

    @abstractmethod
    def note_delivered(self, message_hash: bytes) -> None:
        """Remember that this message was delivered. (For named apps the database remembers it.)"""

    @abstractmethod
    def was_delivered(self, message_hash: bytes) -> bool:
        """Return whether an ephemeral app was delivered this message, as far as that is remembered."""

    @abstractmethod
    def expire(self, now: int, batch: Batch) -> None:
        """Apply the age bound. Call it at intervals, when the database has room."""

    def renew(self, stream_id: bytes) -> None:
        """Continue under another id. Only while no connection is attached."""
        self.stream_id = stream_id
        self._encode = AppEventEncoder(stream_id).encode

    # --- the connection -------------------------------------------------------------------------------------

    def attach(self, send: EventSender, credit: int = 0) -> None:
        """Start with a connection, replacing any other: credit is reset, delivery starts after the last
        ack.
        """
        self.detach()
        self._send = send
        self._credit = credit
        self._spent = 0
        self._sent = self._start()
        self.pump()

    def detach(self) -> None:
        """Detach a connection that is closed, or no longer this app's."""
        self._send = None

    def grant(self, total: int) -> None:
        """Raise the credit to `total` bytes since `attach`; a lower total is ignored."""
        if total > self._credit:
            self._credit = total
            self.pump()

    @abstractmethod
    def ack(self, seq: int, batch: Batch) -> int:
        """Acknowledge everything up to `seq`. Return the new position, which holds once `batch` is on
        disk.

        Raises `AckRefusedError` for a seq that was never sent.
        """

    def pump(self) -> None:
        """Send what may be sent; cheap if there is nothing.

        Call it when the connection becomes writable, and with each heartbeat: a failed read from disk is
        retried only by the next call.
        """
        for _ in range(PUMP_EVENTS):
            send = self._send
            if send is None or self._spent >= self._credit:
                return
            entry = self._peek() if self._sent >= self.dropped else self._dropped_event()
            if entry is None:
                return
            seq, header, payload = entry
            if not send(header, payload):
                return
            self._count_sent(seq, len(header) + len(payload))
        if not self._deferred:
            self._deferred = True
            self._defer(self._pump_on)

    def heartbeat(self, time_ns: int) -> bytes:
        """Return the header of a heartbeat: the last seq, no payload, no credit."""
        return self._encode(self.last_seq, AppEventKind.HEARTBEAT, time_ns, _NO_FIELDS)

    def taken_over(self, time_ns: int) -> bytes:
        """Return the header of the last frame on a connection that lost its app's name to another one."""
        return encode_app_event(self.stream_id, self.last_seq, AppEventKind.TAKEN_OVER, time_ns)

    # --- for the kinds --------------------------------------------------------------------------------------

    def _start(self) -> int:
        """Return the seq after which a new connection starts."""
        return self.acked

    @abstractmethod
    def _peek(self) -> tuple[int, bytes, bytes] | None:
        """Return the event after `_sent`, if it may be sent now: seq, header, payload."""

    def _count_sent(self, seq: int, cost: int) -> None:
        self._sent = max(self._sent, seq)
        self._spent += cost

    def _note_dropped(self, last: int, count: int, time: int, reason: str) -> None:
        self.dropped = last
        self.drop_time = time
        self.drop_reason = reason
        self.events_dropped += count

    def _dropped_event(self) -> tuple[int, bytes, bytes] | None:
        fields = pack_fields(self._sent + 1, self.dropped, self.drop_reason)
        header = self._encode(self.dropped, AppEventKind.EVENTS_DROPPED, self.drop_time, fields)
        return self.dropped, header, b""

    def _pump_on(self) -> None:
        self._deferred = False
        self.pump()
