"""An open channel: its core, joined to the app's stream, the turn's transaction and the way out.

What an input changes, and the events it brings the app, are put into the turn's batch together; what is to be
sent goes out when that batch is on disk (`departures`). So a death at any moment loses nothing that was
acknowledged and brings the app nothing twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mapi_proc.channels.channel import ChannelCore
from mapi_proc.channels.events import (
    ChannelOutput,
    EndedRequest,
    ReceiveRefused,
    RetrieveMessages,
    StoredChannel,
    StoredRequest,
    Transmit,
)
from mapi_proc.channels.figures import ChannelFigures
from mapi_proc.channels.storing import channel_rows
from mapi_proc.clocks import Clocks
from mapi_proc.database import Batch, ChannelRecord

_RECENT: Final = 1_000


@dataclass(eq=False)
class ChannelHost:
    """One open channel."""

    record: ChannelRecord
    core: ChannelCore
    notify: Callable[[ChannelOutput, Batch | None], None]
    """Append an event to the app's stream."""
    batch: Callable[[], Batch | None]
    """Return the turn's batch; None for an ephemeral app, of which nothing is stored."""
    transmit: Callable[[ChannelHost, Transmit], None]
    """Send when the turn is on disk."""
    retrieve: Callable[[ChannelHost, RetrieveMessages], None]
    """Ask stores; it changes nothing, and need not wait."""
    clocks: Clocks
    steady: Callable[[], int]
    """The clock that dates what is stored (ns)."""
    figures: ChannelFigures
    recent: OrderedDict[bytes, StoredRequest | EndedRequest] = field(default_factory=OrderedDict)
    """The sends of an ephemeral app, remembered after their end; a named app's are on disk."""
    closed: bool = False
    """True: nothing is received or stored any more, and late reports about sends are ignored."""
    _due: float | None = None
    _settled: bool = False

    @property
    def due(self) -> float | None:
        """When `tick` is due next, on the running clock."""
        if self._settled:
            # Not computed for each message: it takes a look at all that is missing, thousands at worst.
            self._due, self._settled = self.core.next_time(), False
        return self._due

    def restore(self, stored: StoredChannel, *, notify_again: bool = False) -> None:
        """Restore the stored state. See `ChannelCore.restore`."""
        self.core.restore(stored, self.clocks.running(), self.clocks.now_ns(), notify_again=notify_again)
        self._settle()

    def send(self, request_id: bytes, payload: bytes, ephemeral: bool) -> bool:
        """See `ChannelCore.send`. Accepted when the turn is on disk."""
        repeated = self.core.send(request_id, payload, ephemeral, self.clocks.running(), self.clocks.now_ns())
        self.figures.sends["accepted"] += not repeated
        self._settle()
        return repeated

    def send_sealed(self, request: StoredRequest, contents: list[bytes]) -> bool:
        """See `ChannelCore.send_sealed`. Accepted when the turn is on disk."""
        repeated = self.core.send_sealed(request, contents, self.clocks.running(), self.clocks.now_ns())
        self.figures.sends["accepted"] += not repeated
        self._settle()
        return repeated

    def opened(self, message_id: str, content: bytes | None, error: str) -> None:
        """See `ChannelCore.opened`."""
        self.core.opened(message_id, content, error, self.clocks.running())
        self._settle()

    def receive(self, payload: bytes, digest: bytes) -> None:
        """Handle a message on the channel's content topic."""
        if self.closed:
            return
        self.core.receive(payload, digest, self.clocks.running(), self.clocks.now_ns())
        self._settle()

    def tick(self) -> None:
        """Do what is due."""
        if self.closed:
            return
        self.core.tick(self.clocks.running(), self.clocks.now_ns())
        self._settle()

    def transmitted(self, message_id: str, digest: bytes) -> None:
        """Record that a message reached the network. Stores are not queried for it: acknowledgements say
        more."""
        if self.closed:
            return
        self.core.transmitted(message_id, digest, self.clocks.running())
        self.core.confirmed(message_id)
        self._settle()

    def failed(self, message_id: str) -> None:
        """Record that a message could not be sent now."""
        if self.closed:
            return
        self.core.failed(message_id, self.clocks.running())
        self._settle()

    def _settle(self) -> None:
        outputs, changes = self.core.take()
        batch = self.batch()
        if batch is not None:
            rows = channel_rows(self.record.channel, changes, self.steady())
            if rows is not None:
                batch.channel(rows)
        else:
            self.recent.update(changes.requests)
            while len(self.recent) > _RECENT:
                self.recent.popitem(last=False)
        for output in outputs:
            self.figures.count(output)
            match output:
                case Transmit():
                    self.transmit(self, output)
                case RetrieveMessages():
                    self.retrieve(self, output)
                case ReceiveRefused():
                    pass
                case _:
                    self.notify(output, batch)
        self._settled = True
