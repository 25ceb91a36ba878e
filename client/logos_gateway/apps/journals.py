"""The apps that HTTP clients use: one connection to the Messaging API per app, shared by all its readers.

The Messaging API gives a name to one live connection, and HTTP clients come as many short ones: so the
gateway holds the connection while an app is in use, and for a while after.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from ipc_schema.errors import ErrorCode
from ipc_schema.names import check_name
from ipc_schema.paths import MapiEndpoints
from logos_client import Position
from logos_client.events import (
    Event,
    LinkRestored,
    MessageCancelled,
    MessageError,
    MessagePropagated,
    MessageSent,
    MessageUnconfirmed,
    TakenOver,
)
from logos_client.exceptions import BusyError, LogosError, NotReadyError, public_errors
from logos_client.messaging import MessagingClient
from logos_gateway.apps.encoding import event_size, plain_event
from logos_gateway.apps.window import JournalPosition, JournalWindow, WindowEntry

__all__ = ["Journal", "JournalReader", "Journals"]

log = logging.getLogger(__name__)

MAX_JOURNALS: Final = 512
MAX_READERS: Final = 2048
"""Of all apps together."""
IDLE_SECONDS: Final = 60.0
"""For how long an app's connection is kept that no request uses."""
_WINDOW_BYTES: Final = 4 << 20
_ALL_WINDOWS_BYTES: Final = 256 << 20
_LEAST_WINDOW_BYTES: Final = 256 << 10
_CREDIT: Final = 512 << 10
_MAX_FATES: Final = 10_000
_ACK_DELAY: Final = 0.05
BATCH_BYTES: Final = 64 << 10
"""Written to a reader at once; acknowledged together, too."""


class JournalReader:
    """One SSE connection or WebSocket. `auto`: what was written to it counts as handled."""

    def __init__(self, journal: Journal, index: int, *, auto: bool) -> None:
        self.journal = journal
        self.auto = auto
        self.next_index = index
        self.written: JournalPosition | None = None
        self.ended = ""
        """Why nothing more will come; empty while something may."""

    async def next(self, max_bytes: int = BATCH_BYTES) -> list[WindowEntry]:
        """The next events, as many as there are within the bound; none at the end (`ended` says why)."""
        journal = self.journal
        while not self.ended:
            found = journal.window.batch(self.next_index, max_bytes)
            if found:
                self.next_index = found[-1].index + 1
                return found
            await journal.changed()
        return []

    def done(self, entries: Sequence[WindowEntry]) -> None:
        """These have been written to the reader."""
        for entry in reversed(entries):
            if entry.position is not None:
                self.written = entry.position
                break
        self.journal.settle()


class Journal:
    """One app's connection, its unacknowledged events, and what became of its sends."""

    def __init__(self, client: MessagingClient, limit: Callable[[], int]) -> None:
        """`limit()`: bytes that the window may hold now."""
        self.client = client
        self.window = JournalWindow()
        self.readers: set[JournalReader] = set()
        self.lagging = 0
        """Readers that were cut off since they held up the others."""
        self.idle_since: float | None = None
        self.closed = ""
        """Why the connection has ended; empty while it lives."""
        self._limit = limit
        self._fates: OrderedDict[bytes, Event] = OrderedDict()
        self._changed = asyncio.Event()
        self._ack_timer: asyncio.TimerHandle | None = None
        self._acking: set[asyncio.Task[None]] = set()
        self._reading = asyncio.get_running_loop().create_task(self._read(), name=f"journal {client.name}")

    # -- reading ---------------------------------------------------------------------------------------------

    async def changed(self) -> None:
        """Wait until there may be something new."""
        await self._changed.wait()

    def _wake(self) -> None:
        # A new event for the next wait: all that wait now wake, and none of them can miss what comes after.
        self._changed.set()
        self._changed = asyncio.Event()

    async def _read(self) -> None:
        try:
            async for event in self.client:
                self._note_fate(event)
                stream_id, seq = getattr(event, "stream_id", None), getattr(event, "seq", None)
                position = JournalPosition(stream_id, seq) if stream_id and seq is not None else None
                if isinstance(event, TakenOver):
                    self._end("another connection has taken over this app's name")
                    return
                if isinstance(event, LinkRestored) and not event.resumed:
                    self.window.clear()  # what was not acknowledged is not there any more
                self.window.append(event, position, event_size(event))
                self._wake()
                await self._room()
        except LogosError as error:
            self._end(str(error))
        else:
            self._end("the connection was closed")

    async def _room(self) -> None:
        """Wait while the window is full. A reader that alone holds it up is cut off."""
        while self.window.bytes > self._limit() and not self.closed:
            slowest = min(self.readers, key=lambda reader: reader.next_index, default=None)
            ahead = any(reader.next_index >= self.window.head for reader in self.readers)
            if slowest is not None and slowest.auto and ahead and slowest.next_index < self.window.head:
                self.lagging += 1
                self._drop(slowest, "this reader is too slow: it is more than the window behind another one")
                self.settle(now=True)
            await self.changed()

    def _end(self, reason: str) -> None:
        self.closed = reason
        for reader in list(self.readers):
            self._drop(reader, reason)
        self._wake()

    def _drop(self, reader: JournalReader, reason: str) -> None:
        reader.ended = reason
        self.readers.discard(reader)
        self._wake()

    @contextlib.asynccontextmanager
    async def reader(self, after: JournalPosition | None, *, auto: bool) -> AsyncIterator[JournalReader]:
        """A reader from `after` on, or from the last acknowledgement."""
        index = self.window.first if after is None else self.window.after(after)
        reader = JournalReader(self, index, auto=auto)
        self.readers.add(reader)
        try:
            yield reader
        finally:
            self.readers.discard(reader)
            self.settle()
            self._wake()

    # -- acknowledging ---------------------------------------------------------------------------------------

    def settle(self, *, now: bool = False) -> None:
        """Acknowledge soon what every reader has, if all of them do so by reading."""
        if self._ack_timer is None and not self.closed:
            loop = asyncio.get_running_loop()
            self._ack_timer = loop.call_later(0 if now else _ACK_DELAY, self._settle_now)

    def _settle_now(self) -> None:
        self._ack_timer = None
        if not self.readers or not all(reader.auto for reader in self.readers):
            return
        slowest = min(self.readers, key=lambda reader: reader.next_index)
        if slowest.written is not None:
            task = asyncio.get_running_loop().create_task(self._acknowledge_quietly(slowest.written))
            self._acking.add(task)
            task.add_done_callback(self._acking.discard)

    async def _acknowledge_quietly(self, position: JournalPosition) -> None:
        try:
            await self.acknowledge(position)
        except LogosError as error:
            log.debug("acknowledging %s for %s: %s", position, self.client.name, error)

    async def acknowledge(self, position: JournalPosition) -> None:
        """Acknowledge up to a position; it is on disk when this returns. Raises `LogosError`."""
        await self.client.ack(Position(*position))
        self.window.acknowledge(position)
        self._wake()

    # -- sends -----------------------------------------------------------------------------------------------

    def _note_fate(self, event: object) -> None:
        if isinstance(
            event, MessagePropagated | MessageSent | MessageError | MessageUnconfirmed | MessageCancelled
        ):
            self._fates.pop(event.request_id, None)
            self._fates[event.request_id] = event
            if len(self._fates) > _MAX_FATES:
                self._fates.popitem(last=False)

    def fate(self, request_id: bytes) -> dict[str, Any] | None:
        """The last event of a send, None if none was seen."""
        event = self._fates.get(request_id)
        return None if event is None else plain_event(event)

    async def close(self) -> None:
        """End the readers and the connection. Events that were not acknowledged come again to the next."""
        self._end(self.closed or "the gateway closes this app's connection")
        if self._ack_timer is not None:
            self._ack_timer.cancel()
        await asyncio.gather(*self._acking, return_exceptions=True)
        await self.client.close()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


class Journals:
    """The apps in use, by name."""

    def __init__(self, endpoints: MapiEndpoints | None) -> None:
        self._endpoints = endpoints
        self._journals: dict[str, Journal] = {}
        self._opening: dict[str, asyncio.Task[Journal]] = {}
        self._sweeping: asyncio.Task[None] | None = None
        self.lagging = 0
        """Readers cut off, of apps whose connection has ended since."""

    def __len__(self) -> int:
        return len(self._journals)

    @property
    def readers(self) -> int:
        """Readers of all apps."""
        return sum(len(journal.readers) for journal in self._journals.values())

    @property
    def bytes(self) -> int:
        """Bytes of unacknowledged events held for readers."""
        return sum(journal.window.bytes for journal in self._journals.values())

    @property
    def lagging_readers(self) -> int:
        """Readers cut off since the start."""
        return self.lagging + sum(journal.lagging for journal in self._journals.values())

    def start(self) -> None:
        """Begin to close connections that nothing uses."""
        self._sweeping = asyncio.get_running_loop().create_task(self._sweep(), name="journals")

    async def close(self) -> None:
        """End all connections."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        await asyncio.gather(*(journal.close() for journal in self._journals.values()))
        self._journals.clear()

    async def open(self, name: str, *, takeover: bool = False) -> Journal:
        """The app's journal, connected if it was not.

        Raises `LogosError`: a bad name, one that another program holds (`conflict`), too many apps or readers
        (`busy`), or the Messaging API is not there (`not_ready`).
        """
        if self._endpoints is None:
            raise NotReadyError(ErrorCode.NOT_READY, "this node has no Messaging API", retriable=False)
        with public_errors():
            check_name(name)
        journal = self._journals.get(name)
        if journal is not None and not journal.closed:
            journal.idle_since = None
            return journal
        opening = self._opening.get(name)
        if opening is None:
            opening = asyncio.get_running_loop().create_task(self._open(self._endpoints, name, takeover))
            self._opening[name] = opening
            opening.add_done_callback(lambda task: self._opened(name, task))
        # Shielded: of two requests for one app, the first to be cancelled must not take the other with it.
        return await asyncio.shield(opening)

    def _opened(self, name: str, task: asyncio.Task[Journal]) -> None:
        del self._opening[name]
        if not task.cancelled():
            task.exception()  # read, also when the request that asked is gone

    async def _open(self, endpoints: MapiEndpoints, name: str, takeover: bool) -> Journal:
        journal = self._journals.get(name)
        if journal is not None and journal.closed:
            await self._discard(name, journal)
            journal = None
        if journal is None:
            if len(self._journals) >= MAX_JOURNALS or self.readers >= MAX_READERS:
                raise BusyError(ErrorCode.BUSY, "too many apps are in use over HTTP")
            client = await MessagingClient.connect(
                endpoints.apps, name=name, takeover=takeover, credit=_CREDIT, ack="manual", timeout=5.0
            )
            journal = self._journals[name] = Journal(client, self._window_bytes)
        journal.idle_since = None
        return journal

    def _window_bytes(self) -> int:
        share = _ALL_WINDOWS_BYTES // max(1, len(self._journals))
        return max(_LEAST_WINDOW_BYTES, min(_WINDOW_BYTES, share))

    async def _discard(self, name: str, journal: Journal) -> None:
        if self._journals.get(name) is journal:
            del self._journals[name]
        self.lagging += journal.lagging
        journal.lagging = 0
        await journal.close()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(IDLE_SECONDS / 4)
            for name, journal in list(self._journals.items()):
                if journal.readers:
                    journal.idle_since = None
                elif journal.idle_since is None:
                    journal.idle_since = loop.time()
                elif journal.closed or loop.time() - journal.idle_since >= IDLE_SECONDS:
                    await self._discard(name, journal)
