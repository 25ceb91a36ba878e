"""Lifecycle of apps: a named app's record on disk, its single live connection, and its removal."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass
from typing import Final

from ipc_schema.config.mapi import AppOptions
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.names import check_name
from ipc_schema.steady import SteadyClock
from mapi_proc.apps.registry import App, AppConnection, AppRegistry
from mapi_proc.clocks import Clocks
from mapi_proc.database import AppRecord, Database, JournalExtent, Snapshot
from mapi_proc.disk import Disk
from mapi_proc.streams import CacheBudget, DurableLimits, DurableStream, EphemeralLimits, EphemeralStream
from mapi_proc.streams.limits import connection_window
from mapi_proc.write_batch import Turn

log = logging.getLogger(__name__)

_SECOND: Final = 1_000_000_000
_SPARED_S: Final = 3600.0
"""How long a named app with subscriptions or unread events may be away before it can be evicted for a new
one."""
_SETTLING_S: Final = 10.0
"""The same of one that has neither: it may be about to connect."""


@dataclass(kw_only=True, eq=False)
class AppLifecycle:
    """Adds apps to the registry and removes them."""

    options: AppOptions
    apps: AppRegistry
    database: Database
    turn: Turn
    clocks: Clocks
    steady: SteadyClock
    wants: Callable[[App], bool]
    """Return whether the app has subscriptions."""
    dropped: Callable[[App], None]
    """Called when an app is gone."""
    snapshot: InitVar[Snapshot]
    """Its named apps are restored."""

    def __post_init__(self, snapshot: Snapshot) -> None:
        self._disk = Disk(self.database)
        self._clock = self.clocks.running
        self._defer = asyncio.get_running_loop().call_soon
        self._budget = CacheBudget()
        self._next_app_id = snapshot.next_app_id
        self._creating: dict[str, asyncio.Task[App]] = {}
        for record in snapshot.apps:
            stream = self._durable_stream(record, snapshot.extents.get(record.app_id, ()))
            app = App(record.name, record.uid, stream, record.app_id, record.last_seen, self._clock())
            self.apps.add(app)

    def _durable_stream(self, record: AppRecord, extents: Sequence[JournalExtent]) -> DurableStream:
        limits = DurableLimits(
            max_bytes=self.options.journal_max_bytes,
            max_age=int(self.options.journal_max_age * _SECOND),
        )
        return DurableStream(
            record,
            extents,
            self.database.read_page,
            self._defer,
            limits=limits,
            budget=self._budget,
            date=self.steady.of_label,
        )

    # -- opening -----------------------------------------------------------------------------------------

    async def open(self, name: str | None, uid: int | None) -> App:
        """Return the app of this name, creating its record if it is new, or a new ephemeral app. Raises
        IpcError."""
        if name is None:
            return self._open_ephemeral(uid)
        check_name(name)
        while (app := self.apps.named(name)) is None:
            creating = self._creating.get(name)
            if creating is None:
                self._check_room()
                self._disk.check()
                creating = asyncio.create_task(self._create(name, uid), name=f"create {name}")
                self._creating[name] = creating
                creating.add_done_callback(lambda done: self._created(name, done))
            # Shielded: if the caller is cancelled, the record still goes to the disk. A `forget` may run
            # before we resume; the loop then creates the app again.
            await asyncio.shield(creating)
        self._check_owner(app, uid)
        return app

    def owned(self, name: str, uid: int | None) -> App:
        """Return an existing named app that belongs to this uid. Raises IpcError."""
        check_name(name)
        app = self.apps.named(name)
        if app is None or not app.durable:
            raise IpcError(ErrorCode.BAD_REQUEST, f"no app is named {name}")
        self._check_owner(app, uid)
        return app

    def _created(self, name: str, done: asyncio.Task[App]) -> None:
        del self._creating[name]
        if not done.cancelled() and done.exception() is not None:
            log.info("could not create app %s: %s", name, done.exception())

    async def _create(self, name: str, uid: int | None) -> App:
        record = AppRecord(
            app_id=self._next_app_id,
            name=name,
            uid=-1 if uid is None else uid,
            stream_id=os.urandom(16),
            created=self.steady(),
            last_seen=self.steady(),
        )
        self._next_app_id += 1
        batch = self.database.batch()
        batch.create_app(record)
        await self._disk.commit(batch)
        stream = self._durable_stream(record, ())
        app = App(name, uid, stream, record.app_id, record.last_seen, self._clock())
        self.apps.add(app)
        return app

    def _open_ephemeral(self, uid: int | None) -> App:
        self._check_room()
        limits = EphemeralLimits(
            max_bytes=self.options.ephemeral_max_bytes - connection_window(self.options.ephemeral_max_bytes),
            max_events=self.options.ephemeral_max_events,
        )
        stream = EphemeralStream(os.urandom(16), self._defer, limits)
        app = App(f"ephemeral-{stream.stream_id.hex()[:16]}", uid, stream)
        self.apps.add(app)
        return app

    def _check_room(self) -> None:
        if len(self.apps) + len(self._creating) < self.options.max_apps:
            return
        idle = self._idle()
        if idle is None:
            raise IpcError(
                ErrorCode.BUSY, f"{self.options.max_apps} apps are known already", retry_after_ms=10_000
            )

        log.warning(
            "app %s is forgotten: max-apps (%d) is reached, and least recently used",
            idle.name,
            self.options.max_apps,
        )
        self.turn.flush()
        self.drop(idle)
        self.turn.batch.forget_app(idle.app_id)

    def _idle(self) -> App | None:
        """Pick the named app to evict when the names run out.

        Prefer an app that loses nothing by it, then the one absent longest.
        """
        now = self._clock()
        found: list[tuple[bool, int, App]] = []
        for app in self.apps:
            if not app.durable or app.connection is not None:
                continue
            holds = self.wants(app) or app.has_unread
            if now - app.away_since >= (_SPARED_S if holds else _SETTLING_S):
                found.append((holds, app.last_seen, app))
        return min(found, key=lambda one: one[:2])[2] if found else None

    @staticmethod
    def _check_owner(app: App, uid: int | None) -> None:
        if app.uid is not None and app.uid >= 0 and uid is not None and app.uid != uid:
            raise IpcError(ErrorCode.UNAUTHORISED, f"the name {app.name} belongs to another user")

    # -- the connection ----------------------------------------------------------------------------------

    def claim(
        self, app: App, connection: AppConnection, *, takeover: bool, instead_of: AppConnection | None
    ) -> None:
        """See `Core.claim`."""
        other = app.connection
        if other is not None and other is not instead_of:
            if not takeover:
                raise IpcError(ErrorCode.CONFLICT, f"the name {app.name} has a live connection")
            other.taken_over(app.stream.taken_over(self.clocks.now_ns()))
        app.stream.detach()
        app.connection = connection

    def detach(self, app: App, connection: AppConnection) -> None:
        """See `Core.detach`."""
        if app.connection is not connection:
            return
        app.connection = None
        app.away_since = self._clock()
        app.stream.detach()
        if app.durable:
            app.last_seen = self.steady()
            self.turn.batch.app_seen(app.app_id, app.last_seen)
        else:
            self.drop(app)

    # -- the end -----------------------------------------------------------------------------------------

    def drop(self, app: App) -> None:
        """Remove the app from memory. The caller removes a named app's record."""
        self.apps.remove(app)
        self.dropped(app)

    async def forget(self, name: str, uid: int | None) -> None:
        """See `Core.forget`."""
        app = self.owned(name, uid)
        if app.connection is not None:
            raise IpcError(ErrorCode.CONFLICT, f"the name {name} has a live connection")
        self._disk.check()
        self.turn.flush()  # otherwise its last events would reach the disk behind its removal
        self.drop(app)
        batch = self.database.batch()
        batch.forget_app(app.app_id)
        await self._disk.commit(batch)
