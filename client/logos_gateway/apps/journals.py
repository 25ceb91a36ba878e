"""Apps used by HTTP clients: one connection to the Messaging API per app.

The Messaging API grants a name to one live connection, while HTTP clients make many short ones. So the
gateway holds the connection while the app is in use, and for a while after.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ipc_schema.errors import ErrorCode
from ipc_schema.hello import SeenPosition
from ipc_schema.names import check_name
from ipc_schema.paths import MapiEndpoints
from logos_client.exceptions import BusyError, NotReadyError, public_errors
from logos_client.messaging import MessagingClient
from logos_gateway.apps.journal import IDLE_SECONDS, LEAST_WINDOW_BYTES, Journal

MAX_JOURNALS: Final = 512
MAX_READERS: Final = 2048
"""For all apps together."""
_WINDOW_BYTES: Final = 4 << 20
_ALL_WINDOWS_BYTES: Final = 256 << 20
_CREDIT: Final = 512 << 10


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
        """End the connections of all apps."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        await asyncio.gather(*(journal.close() for journal in self._journals.values()))
        self._journals.clear()

    async def open(self, name: str, *, takeover: bool = False, seen: SeenPosition | None = None) -> Journal:
        """Return the app's journal, and connect it if necessary. `seen`: the last event that its reader
        received before, to be reported to the Messaging API.

        Raises `LogosError`: a bad name, a name held by another program (`conflict`), too many apps or readers
        (`busy`), or no Messaging API (`not_ready`).
        """
        journal = self._journals.get(name)
        if journal is not None and not journal.closed and not journal.must_report(seen):
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
        if journal.must_report(seen):  # it was opened for another request, which had nothing to report
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
        if journal is not None and (journal.closed or journal.must_report(seen)):
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
            journal = self._journals[name] = Journal(client, self._window_bytes, reported=seen is not None)
        journal.idle_since = None
        return journal

    def _window_bytes(self) -> int:
        share = _ALL_WINDOWS_BYTES // max(1, len(self._journals))
        return max(LEAST_WINDOW_BYTES, min(_WINDOW_BYTES, share))

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
