"""An open channel: its core, joined to the app's stream, the turn's transaction and the way out.

What an input changes, and the events it brings the app, are put into the turn's batch together; what is to be
sent goes out when that batch is on disk (`Departures`). So a death at any moment loses nothing that was
acknowledged and brings the app nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from mapi_proc.channels.channel import ChannelCore
from mapi_proc.channels.events import (
    ChannelOutput,
    ReceiveRefused,
    RetrieveMessages,
    StoredChannel,
    StoredRequest,
    Transmit,
)
from mapi_proc.channels.figures import ChannelFigures
from mapi_proc.channels.storing import channel_rows
from mapi_proc.database import Batch, ChannelRecord


class HostTimes(NamedTuple):
    """The clocks: seconds of running time, the wall clock, and the one that dates what is stored (ns)."""

    running: Callable[[], float]
    now_ns: Callable[[], int]
    steady_ns: Callable[[], int]


class Departures(Protocol):
    """What leaves a channel once the turn is on disk."""

    def transmit(self, host: ChannelHost, transmit: Transmit, /) -> None: ...
    def retrieve(self, host: ChannelHost, retrieve: RetrieveMessages, /) -> None: ...


class ChannelHost:
    """One open channel. `notify(event, batch)` appends an event to the app's stream; `batch()` is the turn's,
    None for an ephemeral app, of which nothing is stored."""

    def __init__(
        self,
        record: ChannelRecord,
        core: ChannelCore,
        *,
        notify: Callable[[ChannelOutput, Batch | None], None],
        batch: Callable[[], Batch | None],
        departures: Departures,
        times: HostTimes,
        figures: ChannelFigures,
    ) -> None:
        self.record = record
        self.core = core
        self.due: float | None = None
        self.closed = False
        """True: nothing is received or stored any more, and late reports about sends are ignored."""
        self._notify = notify
        self._batch = batch
        self._departures = departures
        self._times = times
        self._figures = figures

    def restore(self, stored: StoredChannel, *, notify_again: bool = False) -> None:
        """Restore the stored state. See `ChannelCore.restore`."""
        self.core.restore(stored, self._times.running(), self._times.now_ns(), notify_again=notify_again)
        self._settle()

    def send(self, request_id: bytes, payload: bytes, ephemeral: bool) -> bool:
        """See `ChannelCore.send`. Accepted when the turn is on disk."""
        repeated = self.core.send(request_id, payload, ephemeral, self._times.running(), self._times.now_ns())
        self._figures.sends["accepted"] += not repeated
        self._settle()
        return repeated

    def send_sealed(self, request: StoredRequest, contents: list[bytes]) -> bool:
        """See `ChannelCore.send_sealed`. Accepted when the turn is on disk."""
        repeated = self.core.send_sealed(request, contents, self._times.running(), self._times.now_ns())
        self._figures.sends["accepted"] += not repeated
        self._settle()
        return repeated

    def opened(self, message_id: str, content: bytes | None, error: str) -> None:
        """See `ChannelCore.opened`."""
        self.core.opened(message_id, content, error, self._times.running())
        self._settle()

    def receive(self, payload: bytes, digest: bytes) -> None:
        """Handle a message on the channel's content topic."""
        if self.closed:
            return
        self.core.receive(payload, digest, self._times.running(), self._times.now_ns())
        self._settle()

    def tick(self) -> None:
        """Do what is due."""
        if self.closed:
            return
        self.core.tick(self._times.running(), self._times.now_ns())
        self._settle()

    def transmitted(self, message_id: str, digest: bytes) -> None:
        """Record that a message reached the network. Stores are not queried for it: acknowledgements say
        more."""
        if self.closed:
            return
        self.core.transmitted(message_id, digest, self._times.running())
        self.core.confirmed(message_id)
        self._settle()

    def failed(self, message_id: str) -> None:
        """Record that a message could not be sent now."""
        if self.closed:
            return
        self.core.failed(message_id, self._times.running())
        self._settle()

    def _settle(self) -> None:
        outputs, changes = self.core.take()
        batch = self._batch()
        if batch is not None:
            rows = channel_rows(self.record.channel, changes, self._times.steady_ns())
            if rows is not None:
                batch.channel(rows)
        for output in outputs:
            self._figures.count(output)
            match output:
                case Transmit():
                    self._departures.transmit(self, output)
                case RetrieveMessages():
                    self._departures.retrieve(self, output)
                case ReceiveRefused():
                    pass
                case _:
                    self._notify(output, batch)
        self.due = self.core.next_time()
