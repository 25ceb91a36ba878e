"""The Messaging API as a service of this process: directories, lock, sockets, tasks; start and stop."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Final

import zmq

from ipc_schema.config.mapi import MapiConfig
from ipc_schema.control import ControlHealthReply
from ipc_schema.errors import IpcError
from ipc_schema.frames import MAX_BODY
from ipc_schema.paths import MapiEndpoints, mapi_directory
from ipc_schema.streams import new_instance
from logos_process import logs
from logos_process.build import build_of
from logos_process.claim import claim
from logos_process.endpoints import bind
from logos_process.exits import ExitCode, StartError
from logos_process.logs import fields
from logos_process.version import version
from logos_sockets import BLOB_SLACK, Door, open_router
from mapi_proc.core import Core
from mapi_proc.database import DatabaseError, DatabaseState
from mapi_proc.ipc.apps import AppServer
from mapi_proc.ipc.control import control_routes
from mapi_proc.ipc.router import AsyncRequests, DoorKeeper
from mapi_proc.metrics import report
from mapi_proc.send import acceptance
from mapi_proc.subscriptions import AutoSubscribe

log = logging.getLogger(__name__)

_LARGEST_MESSAGE: Final = 1 << 20
"""The largest of any preset: the sockets are bound before the network is known."""
_CONNECTIONS: Final = 320
_CONTROL_CONNECTIONS: Final = 64
_WAITING: Final = 256
"""Messages that libzmq queues for one app that does not read: about 38 MiB with messages of 150 KiB. Further
ones wait in the app's stream, within its own bounds."""


class MapiService:
    """One running Messaging API. `start` and `stop` may be repeated, in this order."""

    def __init__(self, config: MapiConfig, *, auto_subscribe: AutoSubscribe | None = None) -> None:
        self.config = config
        self.on_end: Callable[[BaseException | None], None] = lambda _error: None
        """Called when it ends by itself: with a fault, or with None for a shutdown request on the control
        socket."""
        self._auto_subscribe = auto_subscribe
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._core: Core | None = None
        self._apps: AppServer | None = None
        self._control: AsyncRequests | None = None
        self._doors: tuple[Door, ...] = ()
        self._keeper: DoorKeeper | None = None
        self._runner: asyncio.Task[None] | None = None
        self._claims = ExitStack()
        self._started = 0.0
        self._instance = b""

    @property
    def core(self) -> Core:
        """The running core. Raises RuntimeError when stopped."""
        if self._core is None:
            raise RuntimeError("the Messaging API is not started")
        return self._core

    @property
    def running(self) -> bool:
        return self._core is not None

    async def start(self) -> None:
        """Acquire directories and sockets, open the database, begin serving. The kernel may come up later.

        Raises StartError: another process has them, a path is too long, the database cannot be opened, …
        """
        if self._core is not None:
            raise RuntimeError("the Messaging API is already started")
        self._started = time.monotonic()
        config = self.config
        try:
            apps, control = claim(
                self._claims,
                data_dir=Path(config.data_dir),
                lock_name="mapi.lock",
                socket_dir=mapi_directory(config.ipc_dir),
                endpoints=config.endpoints,
                group=config.ipc_group,
            )
            self._instance = new_instance(os.urandom)
            context = self._context = zmq.Context()
            self._core = await Core.open(
                config,
                context=context,
                auto_subscribe=self._auto_subscribe,
                on_fatal=self._ended,
                instance=self._instance,
            )
            self._bind(context, self._core, MapiEndpoints(apps, control))
        except BaseException as error:
            await self.stop()
            if isinstance(error, DatabaseError | sqlite3.Error):
                raise _start_error(error) from error
            raise
        self._runner = asyncio.create_task(self._run(self._core, self._apps), name="mapi-service")
        log.info(
            "ready",
            extra=fields(version=version(), apps=config.endpoints.apps, data_dir=config.data_dir),
        )

    def _bind(self, context: zmq.Context[zmq.Socket[bytes]], core: Core, endpoints: MapiEndpoints) -> None:
        config = self.config
        group = config.ipc_group is not None
        uids = frozenset({os.geteuid(), *config.allowed_uids})
        apps = open_router(context, max_frame=_LARGEST_MESSAGE + BLOB_SLACK, hwm=_WAITING)
        control = open_router(context, max_frame=MAX_BODY, hwm=100)
        connections = max(_CONNECTIONS, config.apps.max_apps + config.apps.max_apps // 4)
        self._doors = (
            Door(apps, "apps", limit=connections, allowed_uids=uids),
            Door(control, "control", limit=_CONTROL_CONNECTIONS, allowed_uids=uids),
        )
        self._apps = AppServer(
            core,
            apps,
            self._instance,
            f"logos-mapi/{version()}",
            allowed_uids=uids,
            body_bytes=MAX_BODY,
            blob_bytes=_LARGEST_MESSAGE + BLOB_SLACK,
        )
        self._control = AsyncRequests(
            "control",
            control,
            self._instance,
            control_routes(
                self.health,
                lambda: report(self.health()),
                lambda: self._ended(None),
                core.summarise_apps,
                core.summarise_sends,
            ),
            allowed_uids=uids,
        )
        servers = (self._apps.server, self._control.server)
        for door, endpoint, server in zip(self._doors, endpoints, servers, strict=True):
            bind(door, endpoint, group=group)
            if not door.endpoint.startswith("ipc://"):
                server.allow_all()  # tcp carries no peer credentials
        self._keeper = DoorKeeper(self._doors, (self._apps.socket, self._control.socket))

    async def _run(self, core: Core, apps: AppServer | None) -> None:
        assert apps is not None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(core.run(), name="core")
                group.create_task(apps.run(), name="apps")
        except BaseExceptionGroup as error:
            log.critical("a part failed", exc_info=error)
            self._ended(error)

    def _ended(self, error: BaseException | None) -> None:
        # Deferred, so that the reply to a shutdown, or the log line, goes out first.
        asyncio.get_running_loop().call_later(0.05, self.on_end, error)

    async def stop(self) -> None:
        """Commit what is open and release everything. Clients see a closed connection and reconnect.

        Idempotent.
        """
        if self._runner is not None:
            log.info("stopping")
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
            self._runner = None
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
        for door in self._doors:
            door.close()
        if self._apps is not None:
            await self._apps.close()
            self._apps = None
        if self._control is not None:
            await self._control.close()
            self._control = None
        if self._core is not None:
            core, self._core = self._core, None
            await core.close()
        if self._context is not None:
            # Replies in flight are still sent, for up to a second (ZMQ_LINGER).
            context, self._context = self._context, None
            await asyncio.to_thread(context.term)
        self._claims.close()

    def health(self) -> dict[str, object]:
        """Return the body of control's `health`."""
        core = self.core
        database = core.database
        up = core.link.up
        stalled = database.state is DatabaseState.STALLED
        ready = up and not stalled
        state = "READY" if ready else "NOT_READY"
        try:
            network: dict[str, object] | None = core.network.info.to_body()
        except IpcError:
            network = None
        common = ControlHealthReply(
            ready=ready,
            state=state,
            version=version(),
            pid=os.getpid(),
            uptime_ms=int((time.monotonic() - self._started) * 1000),
        )
        status = core.status(None)
        receive, sends, link = core.receiver.counters, core.sends.counters, core.link.counters
        return {
            **common.to_body(),
            "log_level": logs.level(),
            "build": build_of(acceptance),
            "mode": str(self.config.mode),
            "reliability": self.config.reliability,
            "connection": status.connection,
            "reason": status.reason,
            "resyncing": status.resyncing,
            "network": network,
            "kernel": {
                "up": up,
                "instance": core.link.hello.instance if up and core.link.hello is not None else None,
            },
            "shards": {str(shard): str(core.health.shard(shard)) for shard in sorted(core.table.shards)},
            "topics": len(core.table.routes),
            "filter": core.filters.to_body() if core.filters is not None else None,
            "apps": {
                "known": len(core.apps),
                "connected": self._apps.connections if self._apps is not None else 0,
                "journal_bytes": core.journal_bytes,
                "events_dropped": core.apps.events_dropped,
            },
            "sends": {
                "pending": len(core.sends.ledger),
                "pending_bytes": core.sends.ledger.pending_bytes,
                "states": core.sends.ledger.states,
                "cause": core.sends.ledger.last_cause,
                "repeated": core.sends.acceptance.repeated,
                **asdict(sends),
            },
            "channels": core.channels.figures(),
            "receive": {
                **asdict(receive),
                "missed_ranges": core.missed_ranges,
                "hashes_evicted_early": core.receiver.dedup.evicted_early,
                **link,
            },
            "ipc": {
                door.name: {**end.server.counters.to_body(), **asdict(door.counters)}
                for door, end in zip(self._doors, (self._apps, self._control), strict=False)
                if end is not None
            },
            "database": {
                "state": str(database.state),
                "reason": database.state_reason,
                "pending_bytes": database.pending_bytes,
                "commits": database.counters.commits,
                "stalls": database.counters.stalls,
            },
        }


def _start_error(error: DatabaseError | sqlite3.Error) -> StartError:
    """Distinguish an error that a restart may clear (a full disk, a locked file) from one that it cannot (no
    permission, a later version)."""
    cause = error.__cause__
    if isinstance(cause, OSError):
        code = StartError.code_of(cause.errno)
    else:
        number = getattr(cause or error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        passing = error.retriable if isinstance(error, DatabaseError) else True
        refused = not passing or number in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)
        code = ExitCode.CONFIG if refused else ExitCode.FAILED
    return StartError(f"data-dir: {error}", code)
