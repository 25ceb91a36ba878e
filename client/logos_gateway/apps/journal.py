"""One app's connection to the Messaging API, shared by all its readers over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence, Set
from typing import Final, NamedTuple

from ipc_schema.errors import ErrorCode
from ipc_schema.hello import SeenPosition
from logos_client import Position
from logos_client.events import LinkRestored, MessageReceived, TakenOver
from logos_client.exceptions import LogosError, NotReadyError
from logos_client.messaging import MessagingClient
from logos_gateway.apps.encoding import event_size
from logos_gateway.apps.window import JournalPosition, JournalWindow, WindowEntry

log = logging.getLogger(__name__)

IDLE_SECONDS: Final = 60.0
"""How long an unused app's connection is kept, and the position of a reader that disconnected."""
LEAST_WINDOW_BYTES: Final = 256 << 10
"""What the window of an app may hold in any case."""
BATCH_BYTES: Final = 128 << 10
"""Written to a reader at once, and acknowledged together."""
_READ_AT_ONCE: Final = 64
"""Events; their bytes are bounded by the connection's credit."""
_MAX_AWAY: Final = 64
_ACK_DELAY: Final = 0.05
_SETTLE_SHARE: Final = 4
"""A quarter of the window that has been handled is acknowledged without delay."""


class JournalReader:
    """One SSE connection or WebSocket. `auto`: what was written counts as acknowledged; else it says so.

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
            self.journal.settle(sum(entry.size for entry in entries))


class _Away(NamedTuple):
    """The position of a reader that disconnected, kept for a while in case it returns."""

    handled: int
    until: float


class Journal:
    """One app's connection and its unacknowledged events."""

    def __init__(self, client: MessagingClient, limit: Callable[[], int], *, reported: bool = False) -> None:
        """`limit()` returns the bytes that the window may hold now."""
        self.client = client
        self._reported = reported
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
        self._waiting: list[asyncio.Future[None]] = []
        self._ack_timer: asyncio.TimerHandle | None = None
        self._unsettled = 0
        """Bytes that readers have handled since the last acknowledgement was scheduled."""
        self._acking: asyncio.Task[None] | None = None
        self._ack_wanted = False
        self._reading = asyncio.get_running_loop().create_task(self._read(), name=f"journal {client.name}")

    # -- reading ---------------------------------------------------------------------------------------------

    def must_report(self, seen: SeenPosition | None) -> bool:
        """Whether this connection must be made again, to report to the Messaging API what a reader has
        seen: it is of an earlier Messaging API than any that this connection knew. Once is enough."""
        return seen is not None and not self._reported and seen.instance != self._instance

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
            while events := await self.client._next_events(_READ_AT_ONCE):  # noqa: SLF001 (see there)
                for event in events:
                    if type(event) is not MessageReceived:  # most are
                        if isinstance(event, TakenOver):
                            self._end("another connection has taken over this app's name")
                            return
                        if isinstance(event, LinkRestored) and not event.resumed:
                            self.window.clear()  # what was not acknowledged is not there any more
                    self.window.append(event, event_size(event))
                if self._waiting:
                    self._wake()
                if self.window.bytes > LEAST_WINDOW_BYTES:
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

    def settle(self, size: int = 0, *, now: bool = False) -> None:
        """Schedule the acknowledgement of what all readers have acknowledged: soon, or at once when that
        frees a good part of the window. `size`: bytes of it that are new."""
        if self.closed:
            return
        self._unsettled += size
        if now or self._unsettled > self._limit() // _SETTLE_SHARE:
            # A window that fills up stops the reading until the acknowledgement comes back from the disk.
            self._stop_ack_timer()
            self._settle_now()
        elif self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(_ACK_DELAY, self._settle_now)

    def _stop_ack_timer(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None

    def _settle_now(self) -> None:
        self._ack_timer = None
        self._unsettled = 0
        if not (self.readers or self._away):
            return
        self._ack_wanted = True
        if self._acking is None:
            self._acking = asyncio.get_running_loop().create_task(self._acknowledge_wanted())

    async def _acknowledge_wanted(self) -> None:
        # One at a time: the next one covers what has been handled meanwhile.
        try:
            while self._ack_wanted:
                self._ack_wanted = False
                await self._acknowledge_handled()
        except LogosError as error:
            log.debug("acknowledging for %s: %s", self.client.name, error)
            if error.retriable:  # nothing else may come that would schedule it again: the window may be full
                self.settle()
        finally:
            self._acking = None

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

    async def close(self) -> None:
        """End the readers and the connection. Unacknowledged events are delivered again to the next."""
        self._end(self.closed or "the gateway closes this app's connection")
        self._stop_ack_timer()
        if self._acking is not None:
            await asyncio.gather(self._acking, return_exceptions=True)
        await self.client.close()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
