"""Apps used by HTTP clients: one connection to the Messaging API per app, shared by all its readers.

The Messaging API grants a name to one live connection, while HTTP clients make many short ones. So the
gateway holds the connection while the app is in use, and for a while after.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence, Set
from typing import Any, Final, NamedTuple

from ipc_schema.errors import ErrorCode
from ipc_schema.hello import SeenPosition
from ipc_schema.names import check_name
from ipc_schema.paths import MapiEndpoints
from logos_client import Position
from logos_client.events import (
    ChannelDeliveryError,
    ChannelMessageDelivered,
    ChannelMessageError,
    ChannelMessageSent,
    Event,
    LinkRestored,
    MessageCancelled,
    MessageError,
    MessagePropagated,
    MessageReceived,
    MessageSent,
    MessageUnconfirmed,
    TakenOver,
)
from logos_client.exceptions import BusyError, LogosError, NotReadyError, public_errors
from logos_client.messaging import MessagingClient
from logos_gateway.apps.encoding import event_size, plain_event
from logos_gateway.apps.window import JournalPosition, JournalWindow, WindowEntry

_FATES: Final = MessagePropagated | MessageSent | MessageError | MessageUnconfirmed | MessageCancelled
_CHANNEL_FATES: Final = (
    ChannelMessageSent | ChannelMessageDelivered | ChannelMessageError | ChannelDeliveryError
)

log = logging.getLogger(__name__)

MAX_JOURNALS: Final = 512
MAX_READERS: Final = 2048
"""For all apps together."""
IDLE_SECONDS: Final = 60.0
"""How long an unused app's connection is kept, and the position of a reader that disconnected."""
_MAX_AWAY: Final = 64
_WINDOW_BYTES: Final = 4 << 20
_ALL_WINDOWS_BYTES: Final = 256 << 20
_LEAST_WINDOW_BYTES: Final = 256 << 10
_CREDIT: Final = 512 << 10
_MAX_FATES: Final = 10_000
_ACK_DELAY: Final = 0.05
BATCH_BYTES: Final = 128 << 10
"""Written to a reader at once, and acknowledged together."""


class JournalReader:
    """One SSE connection or WebSocket. `auto`: what was written to it is acknowledged; else it acknowledges.

    What a reader has not acknowledged stays in the window, and unacknowledged at the Messaging API, whatever
    the app's other readers have acknowledged.
    """

    def __init__(self, journal: Journal, start: int, handled: int, *, auto: bool, label: str) -> None:
        self.journal = journal
        self.auto = auto
        self.label = label
        self.next_number = start
        self.handled = handled
        """Index of the first entry that it has not acknowledged."""
        self.ended = ""
        """Why the reader has ended; empty while it has not."""

    async def next(self, max_bytes: int = BATCH_BYTES) -> list[WindowEntry]:
        """Return the next events within the bound, or none at the end (`ended` says why)."""
        journal = self.journal
        while not self.ended:
            found = journal.window.batch(self.next_number, max_bytes)
            if found:
                self.next_number = found[-1].number + 1
                return found
            await journal.changed()
        return []

    def done(self, entries: Sequence[WindowEntry]) -> None:
        """Record that these have been written to the reader."""
        if self.auto:
            self.handled = max(self.handled, entries[-1].number + 1)
            self.journal.settle()


class _Away(NamedTuple):
    """The position of a reader that disconnected, kept for a while in case it returns."""

    handled: int
    until: float


class Journal:
    """One app's connection, its unacknowledged events, and the outcome of its sends."""

    def __init__(self, client: MessagingClient, limit: Callable[[], int], *, told: bool = False) -> None:
        """`limit()` returns the bytes that the window may hold now."""
        self.client = client
        self._told = told
        self._instance = client.instance
        self.window = JournalWindow()
        self.readers: set[JournalReader] = set()
        self.lagging = 0
        """Readers disconnected because they held up the others."""
        self.idle_since: float | None = None
        self.closed = ""
        """Why the connection has ended; empty while it is open."""
        self._limit = limit
        self._away: dict[str, _Away] = {}
        """By label."""
        self._fates: OrderedDict[tuple[str, bytes], Event] = OrderedDict()
        """By channel, "" for none, and request id."""
        self._waiting: list[asyncio.Future[None]] = []
        self._ack_timer: asyncio.TimerHandle | None = None
        self._acking: set[asyncio.Task[None]] = set()
        self._reading = asyncio.get_running_loop().create_task(self._read(), name=f"journal {client.name}")

    # -- reading ---------------------------------------------------------------------------------------------

    def must_tell(self, seen: SeenPosition | None) -> bool:
        """Whether this connection must be made again, for the Messaging API to be told what a reader has
        seen: it is of an earlier Messaging API than any that this connection knew. Once is enough."""
        return seen is not None and not self._told and seen.instance != self._instance

    async def changed(self) -> None:
        """Wait until there may be new events."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def _wake(self) -> None:
        # Wakes all current waiters, so that none misses an event.
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def _read(self) -> None:
        try:
            async for event in self.client:
                if type(event) is not MessageReceived:  # most are
                    self._note_fate(event)
                    if isinstance(event, TakenOver):
                        self._end("another connection has taken over this app's name")
                        return
                    if isinstance(event, LinkRestored) and not event.resumed:
                        self.window.clear()  # what was not acknowledged is not there any more
                self.window.append(event, event_size(event))
                if self._waiting:
                    self._wake()
                if self.window.bytes > _LEAST_WINDOW_BYTES:
                    await self._room()
        except LogosError as error:
            self._end(str(error))
        else:
            self._end("the connection was closed")

    async def _room(self) -> None:
        """Wait while the window is full. A reader that holds it up for the others is disconnected instead."""
        while self.window.bytes > self._limit() and not self.closed:
            first = self.window.first
            if any(reader.handled > first for reader in self.readers):
                self._away = {label: one for label, one in self._away.items() if one.handled > first}
                for reader in [one for one in self.readers if one.handled <= first]:
                    self.lagging += 1
                    self._drop(reader, "this reader is too slow: it is the window behind another one")
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
    async def reader(
        self, after: JournalPosition | None, *, auto: bool, label: str = ""
    ) -> AsyncIterator[JournalReader]:
        """Return a reader from `after` on, or from the last acknowledgement under `label`."""
        handled = self.window.first if auto else self._return(label)
        start = handled if after is None else self.window.after(after)
        reader = JournalReader(self, start, handled, auto=auto, label=label)
        self.readers.add(reader)
        try:
            yield reader
        finally:
            if reader in self.readers and not auto:
                self._leave(reader)
            self.readers.discard(reader)
            self.settle()
            self._wake()

    def _leave(self, reader: JournalReader) -> None:
        """Keep a reader's position, unless it has returned already: its end may be noticed late."""
        if any(one.label == reader.label and not one.auto for one in self.readers if one is not reader):
            return
        before = self._away.pop(reader.label, None)
        handled = reader.handled if before is None else max(before.handled, reader.handled)
        self._away[reader.label] = _Away(handled, asyncio.get_running_loop().time() + IDLE_SECONDS)
        if len(self._away) > _MAX_AWAY:
            del self._away[next(iter(self._away))]

    def _return(self, label: str) -> int:
        """Return where a reader begins, and remove the position that was kept for it."""
        place = self._away.pop(label, None)
        return self.window.first if place is None else max(place.handled, self.window.first)

    # -- acknowledging ---------------------------------------------------------------------------------------

    def settle(self, *, now: bool = False) -> None:
        """Schedule the acknowledgement of what all readers have acknowledged."""
        if self._ack_timer is None and not self.closed:
            loop = asyncio.get_running_loop()
            self._ack_timer = loop.call_later(0 if now else _ACK_DELAY, self._settle_now)

    def _settle_now(self) -> None:
        self._ack_timer = None
        if self.readers or self._away:
            task = asyncio.get_running_loop().create_task(self._acknowledge_quietly())
            self._acking.add(task)
            task.add_done_callback(self._acking.discard)

    async def _acknowledge_quietly(self) -> None:
        try:
            await self._acknowledge_handled()
        except LogosError as error:
            log.debug("acknowledging for %s: %s", self.client.name, error)

    async def acknowledge(self, position: JournalPosition, reader: JournalReader | str = "") -> None:
        """Acknowledge everything up to a position for a reader, or for those of a label. On return it is on
        disk, as far as no other reader still needs it. Raises `LogosError`."""
        acting = {reader} if isinstance(reader, JournalReader) else self._named(reader)
        label = reader.label if isinstance(reader, JournalReader) else reader
        others = self.readers - acting
        if not others and len(acting) < 2 and self._holding() <= {label}:
            # The only reader decides, and may know events that a restarted gateway has not read yet.
            await self._acknowledge(position)
            end = self.window.first
        else:
            if not acting and label not in self._away and any(not one.auto for one in others):
                raise NotReadyError(ErrorCode.NOT_READY, f"no reader named {label!r} is connected")
            end = self.window.after(position)
        for one in acting:
            # Several under one label: none can have handled what was not written to it.
            one.handled = max(one.handled, end if len(acting) == 1 else min(end, one.next_number))
        if (place := self._away.get(label)) is not None:
            self._away[label] = place._replace(handled=max(place.handled, end))
        await self._acknowledge_handled()

    def _named(self, label: str) -> set[JournalReader]:
        return {one for one in self.readers if one.label == label and not one.auto}

    def _holding(self) -> Set[str]:
        """Return the labels of readers that disconnected and may still return."""
        if self._away:
            now = asyncio.get_running_loop().time()
            self._away = {label: one for label, one in self._away.items() if one.until > now}
        return self._away.keys()

    async def _acknowledge_handled(self) -> None:
        """Send the acknowledgement of what all readers have acknowledged."""
        places = [self._away[label] for label in self._holding()]
        handled = [one.handled for one in self.readers] + [one.handled for one in places]
        end = min(handled, default=0)
        position = self.window.before(end)
        if position is not None:
            await self.client.ack(Position(*position))
            self.window.drop_before(end)
            self._wake()

    async def _acknowledge(self, position: JournalPosition) -> None:
        await self.client.ack(Position(*position))
        self.window.acknowledge(position)
        self._wake()

    # -- sends -----------------------------------------------------------------------------------------------

    def _note_fate(self, event: Event) -> None:
        if isinstance(event, _FATES):
            key = "", event.request_id
        elif isinstance(event, _CHANNEL_FATES):
            key = event.channel_id, event.request_id
        else:
            return
        self._fates[key] = event
        self._fates.move_to_end(key)
        if len(self._fates) > _MAX_FATES:
            self._fates.popitem(last=False)

    def fate(self, request_id: bytes, channel_id: str = "") -> dict[str, Any] | None:
        """Return the last event of a send, in a channel if one is named; None if none was seen."""
        event = self._fates.get((channel_id, request_id))
        return None if event is None else plain_event(event)

    async def close(self) -> None:
        """End the readers and the connection. Unacknowledged events are delivered again to the next."""
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
        """Disconnected readers of apps whose connection has ended since."""

    def __len__(self) -> int:
        return len(self._journals)

    @property
    def readers(self) -> int:
        """Number of readers, over all apps."""
        return sum(len(journal.readers) for journal in self._journals.values())

    @property
    def bytes(self) -> int:
        """Bytes of unacknowledged events, over all apps."""
        return sum(journal.window.bytes for journal in self._journals.values())

    @property
    def lagging_readers(self) -> int:
        """Readers disconnected since the start, because they held up others."""
        return self.lagging + sum(journal.lagging for journal in self._journals.values())

    def start(self) -> None:
        """Start closing unused connections."""
        self._sweeping = asyncio.get_running_loop().create_task(self._sweep(), name="journals")

    async def close(self) -> None:
        """End all connections."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        await asyncio.gather(*(journal.close() for journal in self._journals.values()))
        self._journals.clear()

    async def open(self, name: str, *, takeover: bool = False, seen: SeenPosition | None = None) -> Journal:
        """Return the app's journal, and connect it if necessary. `seen`: the last event that its reader
        received before, for the Messaging API to be told.

        Raises `LogosError`: a bad name, a name held by another program (`conflict`), too many apps or readers
        (`busy`), or no Messaging API (`not_ready`).
        """
        journal = self._journals.get(name)
        if journal is not None and not journal.closed and not journal.must_tell(seen):
            journal.idle_since = None
            return journal
        if self._endpoints is None:
            raise NotReadyError(ErrorCode.NOT_READY, "this node has no Messaging API", retriable=False)
        with public_errors():
            check_name(name)
        opening = self._opening.get(name)
        if opening is None:
            work = self._open(self._endpoints, name, takeover, seen)
            opening = asyncio.get_running_loop().create_task(work)
            self._opening[name] = opening
            opening.add_done_callback(lambda task: self._opened(name, task))
        # Shielded: of two requests for one app, cancelling one must not cancel the other.
        journal = await asyncio.shield(opening)
        if journal.must_tell(seen):  # it was opened for another request, which had nothing to tell
            return await self.open(name, takeover=takeover, seen=seen)
        return journal

    def _opened(self, name: str, task: asyncio.Task[Journal]) -> None:
        del self._opening[name]
        if not task.cancelled():
            task.exception()  # read, also when the request that asked is gone

    async def _open(
        self, endpoints: MapiEndpoints, name: str, takeover: bool, seen: SeenPosition | None
    ) -> Journal:
        journal = self._journals.get(name)
        if journal is not None and (journal.closed or journal.must_tell(seen)):
            await self._discard(name, journal)
            journal = None
        if journal is None:
            if len(self._journals) >= MAX_JOURNALS or self.readers >= MAX_READERS:
                raise BusyError(ErrorCode.BUSY, "too many apps are in use over HTTP")
            client = await MessagingClient.connect(
                endpoints.apps,
                name=name,
                takeover=takeover,
                credit=_CREDIT,
                ack="manual",
                seen=seen,
                timeout=5.0,
            )
            journal = self._journals[name] = Journal(client, self._window_bytes, told=seen is not None)
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
