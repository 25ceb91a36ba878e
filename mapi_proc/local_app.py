"""The app inside MAPI's own process: its events come through a queue instead of a socket, with the same
credit.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Final

from ipc_schema.mapi.event_codec import decode_app_event
from ipc_schema.mapi.events import AppEvent
from mapi_proc.apps import App
from mapi_proc.core import Core

_CREDIT: Final = 4 << 20

LocalEvent = tuple[AppEvent, bytes]
"""An event, and the payload of a message or channel event; otherwise empty."""


class LocalApp:
    """One app in this process. Implements `mapi_proc.apps.AppConnection`.

    An event counts as processed, and is acknowledged, when the next one is requested.
    """

    def __init__(self, core: Core, app: App) -> None:
        self.app = app
        self._core = core
        self._queue: asyncio.Queue[tuple[AppEvent, bytes, int] | None] = asyncio.Queue()
        self._granted = _CREDIT

    @classmethod
    async def open(cls, core: Core, name: str | None) -> LocalApp:
        """Open and attach. Raises IpcError (`conflict` if another connection has the name)."""
        app = await core.open_app(name, os.geteuid())
        local = cls(core, app)
        core.claim(app, local, takeover=False)
        core.attach(app, local, _CREDIT)
        return local

    def send(self, header: bytes, payload: bytes, /) -> bool:
        """Queue one event. Credit bounds the stream, so the queue needs no bound of its own."""
        self._queue.put_nowait((decode_app_event(header), payload, len(header) + len(payload)))
        return True

    def taken_over(self, header: bytes, /) -> None:
        """End the events: another connection has claimed the name."""
        self._queue.put_nowait((decode_app_event(header), b"", 0))
        self._queue.put_nowait(None)

    def close(self) -> None:
        """Detach; `events` ends."""
        self._core.detach(self.app, self)
        self._queue.put_nowait(None)

    async def events(self) -> AsyncIterator[LocalEvent]:
        """Iterate over the app's events in order, until `close`."""
        while (item := await self._queue.get()) is not None:
            event, payload, cost = item
            yield event, payload
            self._granted += cost
            self.app.stream.grant(self._granted)
            if cost and self.app.connection is self:
                self.app.stream.ack(event.seq, self._core.turn.batch)
