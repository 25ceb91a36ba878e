"""The core of the Messaging API: apps, subscriptions, sends, received messages and events, on one database
and one kernel.

It has no sockets for apps (`mapi_proc.ipc`) and no process life (`mapi_proc.api`); both are built on it. All
calls come from one asyncio loop.

`mapi_proc.wiring` creates and connects the parts; this module holds what involves more than one of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import zmq

from ipc_schema.config.mapi import MapiConfig, Mode
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.hello import SeenPosition
from ipc_schema.mapi.control import AppsReply, SendsReply
from ipc_schema.mapi.methods import PendingSend, SendRequest, StatusReply
from ipc_schema.node_info import NODE_INFO, NodeInfoReply, NodeInfoRequest
from mapi_proc.apps import App, AppConnection
from mapi_proc.apps.starts import STARTS_NOTE, Starts
from mapi_proc.apps.summary import summarise_apps, summarise_sends
from mapi_proc.clocks import CLOCK_NOTE, SYSTEM_CLOCKS, Clocks, steady_clock
from mapi_proc.database import ChannelContents, ChannelRecord, Database
from mapi_proc.database.channels import load_channel, load_channels
from mapi_proc.disk import Disk, refusals
from mapi_proc.health import HealthTransition
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.kernel_link.tracker import NO_FILTER_PEERS, NO_MESH_PEERS
from mapi_proc.network import AppNetwork
from mapi_proc.receive.history_ranges import HistoryRange
from mapi_proc.send.task import SendTask
from mapi_proc.streams import AckRefusedError
from mapi_proc.subscriptions import AutoSubscribe
from mapi_proc.upkeep import journal_bytes
from mapi_proc.wiring import Foundation, Parts

log = logging.getLogger(__name__)


class Core:
    """The core as one object: `await Core.open(…)`, `await run()` until cancelled, `await close()`."""

    def __init__(
        self,
        base: Foundation,
        auto_subscribe: AutoSubscribe | None,
        on_fatal: Callable[[Exception], None],
        channels: Sequence[tuple[ChannelRecord, ChannelContents]] = (),
        instance: bytes = b"",
    ) -> None:
        """Use `Core.open`. `channels`: what is stored of reliable channels."""
        self.config = base.config
        self.database = base.database
        self.link = base.link
        self.now_ns = base.clocks.now_ns
        self._steady = base.steady
        self._on_fatal = on_fatal
        self._closing = False
        self._disk = Disk(base.database)
        parts = self._parts = Parts(base, auto_subscribe, self._turn_failed)
        self.apps = parts.apps
        self.table = parts.table
        self.turn = parts.turn
        self.receiver = parts.receiver
        self.sends = parts.sends
        self.filters = parts.filters
        self.channels = parts.channels
        if channels:
            self.channels.get().restore(channels)
        last = {app.app_id: app.stream.last_seq for app in self.apps}
        self._starts = Starts(base.snapshot.notes.get(STARTS_NOTE), instance, last)
        self.turn.batch.note(STARTS_NOTE, self._starts.to_note())
        base.link.set_listener(parts.listener)
        parts.networks.load(base.snapshot.notes)

    @classmethod
    async def open(
        cls,
        config: MapiConfig,
        *,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        auto_subscribe: AutoSubscribe | None = None,
        on_fatal: Callable[[Exception], None],
        clocks: Clocks = SYSTEM_CLOCKS,
        instance: bytes = b"",
    ) -> Core:
        """Open the database and restore its state. `context` is used for the sockets to the kernel;
        `instance` is what apps know this process by.

        Raises DatabaseError, OSError.
        """
        database = await Database.open(Path(config.data_dir) / "mapi.sqlite3")
        link: KernelLink | None = None
        try:
            snapshot = await database.load()
            steady = steady_clock(clocks, snapshot.notes.get(CLOCK_NOTE))
            channels = [
                (one, await database.read(load_channel, one.channel))
                for one in await database.read(load_channels)
            ]
            # Nothing is awaited from here on: the kernel may answer as soon as the loop has its next turn.
            link = KernelLink(
                config.kernel.requests,
                config.kernel.control,
                f"mapi-{database.database_id.hex()}",
                steady=steady,
                deaf=NO_FILTER_PEERS if config.mode is Mode.EDGE else NO_MESH_PEERS,
                context=context,
            )
            base = Foundation(config, database, link, snapshot, clocks, steady)
            return cls(base, auto_subscribe, on_fatal, channels, instance)
        except BaseException:
            if link is not None:
                await link.close()
            await database.close()
            raise

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.link.run(), name="kernel-link")
            group.create_task(self.sends.loop.run(), name="send-loop")
            group.create_task(self._parts.catchup.run(), name="catch-up")
            group.create_task(self._parts.history.run(), name="history")
            if self.filters is not None:
                group.create_task(self.filters.run(), name="filters")
            group.create_task(self._parts.peer_watch.run(), name="peers")
            group.create_task(self.channels.run(), name="channels")
            group.create_task(self._parts.upkeep.run(), name="upkeep")

    async def close(self) -> None:
        """Commit what is open and close. Idempotent."""
        if self._closing:
            return
        self._closing = True
        self._parts.status.close()
        await self.link.close()
        self._parts.shards.close()
        now = self._steady()
        self.turn.batch.note(CLOCK_NOTE, self._steady.stamp().to_note())
        self.sends.keep_windows()
        for app in self.apps.connected:
            if app.durable:
                self.turn.batch.app_seen(app.app_id, now)
        self.turn.flush()
        await self.database.close()

    def _turn_failed(self, error: Exception) -> None:
        if not self._closing:
            log.critical("a transaction could not be stored: %s", error)
            self._on_fatal(error)

    @property
    def network(self) -> AppNetwork:
        """Return the network that the node is on. Raises `not_ready` until the kernel has reported it
        once."""
        return self._parts.network()

    # -- reports -----------------------------------------------------------------------------------------

    @property
    def health(self) -> HealthTransition:
        """Return connection status and shard health."""
        return self._parts.status.health

    @property
    def missed_ranges(self) -> int:
        """Count the gaps found so far, recovered or not."""
        return self._parts.catchup.found

    @property
    def journal_bytes(self) -> int:
        """Estimate the bytes waiting in the journals of all named apps."""
        return journal_bytes(self.apps)

    def status(self, app: App | None, after: str = "") -> StatusReply:
        """Return the status as an app sees it, for these topics (None: all)."""
        return self._parts.status.reply(app, after)

    def summarise_apps(self) -> AppsReply:
        """Summarise all apps, for the operator."""
        topics = self.table.topics_of
        return summarise_apps(
            self.apps, lambda stream: len(topics(stream)), self.sends.ledger, self._steady()
        )

    def summarise_sends(self) -> SendsReply:
        """Summarise all pending sends, for the operator."""
        ledger = self.sends.ledger
        return summarise_sends(ledger, ledger.states, self.apps.name_of)

    async def node_info(self, ids: tuple[str, ...] | None) -> dict[str, object]:
        """Return the kernel's node information. Raises IpcError."""
        reply = await self.link.request(NODE_INFO, NodeInfoRequest(ids=ids).to_body())
        return NodeInfoReply.from_body(reply.body).info

    # -- apps --------------------------------------------------------------------------------------------

    async def open_app(self, name: str | None, uid: int | None) -> App:
        """Return the app of this name, creating it if it is new, or a new ephemeral app. Raises IpcError."""
        return await self._parts.lifecycle.open(name, uid)

    def named_app(self, name: str, uid: int | None) -> App:
        """Return an existing named app that belongs to this uid. Raises IpcError."""
        return self._parts.lifecycle.owned(name, uid)

    def claim(
        self, app: App, connection: AppConnection, *, takeover: bool, instead_of: AppConnection | None = None
    ) -> None:
        """Make `connection` the app's only connection; `attach` then starts delivery.

        `instead_of` is the same peer's previous connection, which gets no takeover notice. Raises
        `conflict` if the app has a live connection and `takeover` is not set.
        """
        self._parts.lifecycle.claim(app, connection, takeover=takeover, instead_of=instead_of)
        self._parts.status.greet(app)

    async def check_seen(self, app: App, seen: SeenPosition | None) -> None:
        """Give the stream of a named app that was claimed a new id, if it has seen what is not in it.

        Raises IpcError.
        """
        old = app.stream.stream_id
        if seen is None or not app.durable or seen.stream != old:
            return
        if not self._starts.contradicts(app.app_id, seen, app.stream.last_seq):
            return
        self._disk.check()
        log.warning(
            "app %s has seen event %d of its stream, which is not in the database: an older state of it was"
            " put back, together with the files beside it. The stream gets a new id",
            app.name,
            seen.seq,
        )
        # Everything under the old id must be on its way to the disk before the id changes.
        self.turn.flush()
        self.sends.acceptance.flush()
        new = os.urandom(16)
        self.apps.renew(app, new)
        self.sends.ledger.renamed(old, new)
        self._parts.subscriptions.renamed(old, new)
        batch = self.database.batch(durable=True)
        batch.renew_stream(app.app_id, old, new)
        await self._disk.commit(batch)

    def attach(self, app: App, connection: AppConnection, credit: int) -> None:
        """Start delivery to the connection that claimed the app. No-op if another one has claimed it
        since."""
        if app.connection is connection:
            app.stream.attach(connection.send, credit)

    def detach(self, app: App, connection: AppConnection) -> None:
        """Detach a closed connection. An ephemeral app ends with it; its accepted sends go on."""
        self._parts.lifecycle.detach(app, connection)

    async def forget(self, name: str, uid: int | None) -> None:
        """Delete a named app: stream, subscriptions, position. Raises IpcError."""
        await self._parts.lifecycle.forget(name, uid)

    def note_ack(self, app: App, stream_id: bytes, seq: int) -> int:
        """Acknowledge everything up to `seq`. Return the position; it goes to the disk with the turn's other
        changes. Raises IpcError."""
        if stream_id != app.stream.stream_id:
            raise IpcError(ErrorCode.CONFLICT, "that is not this app's stream")
        if app.durable:
            self._disk.check()
        try:
            return app.stream.ack(seq, self.turn.batch)
        except AckRefusedError as error:
            raise IpcError(ErrorCode.BAD_REQUEST, f"ack: {error}") from error

    async def ack(self, app: App, stream_id: bytes, seq: int) -> int:
        """Acknowledge everything up to `seq`. Return the position once it is on disk. Raises IpcError."""
        acked = self.note_ack(app, stream_id, seq)
        if app.durable:
            # Also when it moves nothing: an equal one may still be on its way to the disk.
            await self._disk.stored(self.turn)
        return acked

    # -- subscriptions and sends -------------------------------------------------------------------------

    async def subscribe(
        self, app: App, topics: Iterable[str], *, history: HistoryRange | None = None
    ) -> dict[str, str]:
        """Subscribe. Return the errors by topic, once the kernel (if connected) records the shards.

        `history` selects the past messages to deliver as well. Raises IpcError.
        """
        return await self._parts.subscriptions.subscribe(app, topics, history=history)

    async def unsubscribe(self, app: App, topics: Iterable[str]) -> dict[str, str]:
        """Unsubscribe. Return the errors by topic. Raises IpcError."""
        return await self._parts.subscriptions.unsubscribe(app, topics)

    def send(self, app: App, request: SendRequest, payload: bytes) -> Awaitable[bool]:
        """Accept a send. The result is True if it is a repeat. Its outcome arrives on the app's stream.

        Raises IpcError, here or with the result.
        """
        shard = self.sends.check(request, payload)
        self._disk.check()
        subscribing = self._parts.subscriptions.subscribe_to_send(app, request.content_topic)
        if subscribing is None:
            return self.sends.accept(app.stream, request, payload, shard)

        async def subscribe_first() -> bool:
            await subscribing
            # Shielded: a client that goes away must not cancel a transaction that is already on its way.
            return await asyncio.shield(self.sends.accept(app.stream, request, payload, shard))

        return subscribe_first()

    async def cancel(self, app: App, request_id: bytes) -> bool:
        """Cancel a send before its first attempt; `message_cancelled` follows. Return False if it is too late
        or the id is unknown, and True once it is on disk: after a restart it would be sent.

        Raises IpcError.
        """
        self._disk.check()
        cancelled = self.sends.cancel(app.stream, request_id)
        if cancelled:
            await self._disk.stored(self.turn)
        return cancelled

    def pending(self, app: App) -> list[SendTask]:
        """List the app's sends that are not final, oldest first."""
        return self.sends.pending(app.stream)

    async def find_send(self, app: App, request_id: bytes) -> PendingSend | None:
        """Return the app's send of this id, final or not; None if it is unknown, or forgotten after a day.

        Raises IpcError.
        """
        self._disk.check()
        with refusals():
            return await self.sends.find(app.stream, request_id)
