"""The Messaging API itself: apps, subscriptions, sends, what arrives and what is told, on one database and
one kernel.

No sockets for apps here (`mapi_proc.ipc`) and no process (`mapi_proc.api`): this is what both work on. All
calls come on one asyncio loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import zmq

from ipc_schema.config.mapi import MapiConfig, Mode
from ipc_schema.config.options import ConfigError
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.hello import NetworkInfo
from ipc_schema.kernel.events import MessageEvent, parse_stream
from ipc_schema.kernel.methods import (
    NODE_INFO,
    PEERS_LIST,
    KernelHello,
    NodeInfoReply,
    NodeInfoRequest,
    PeersListReply,
)
from ipc_schema.kernel.records import NodeHealth, ProtocolState
from ipc_schema.mapi.events import AppEventKind, pack_fields
from ipc_schema.mapi.methods import SendRequest, StatusReply
from ipc_schema.names import check_name
from mapi_proc.apps import App, AppRegistry, Connection
from mapi_proc.database import (
    AppRecord,
    Batch,
    Database,
    DatabaseBusyError,
    DatabaseClosedError,
    DatabaseState,
    JournalExtent,
    OutboxEntry,
    Snapshot,
)
from mapi_proc.health import D_LOW, EdgePeers, HealthTransition, NodeFacts, TopicHealth
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.kernel_link.tracker import Missed, Position
from mapi_proc.network import NETWORK_NOTE, Network
from mapi_proc.peers import FILTER, LIGHTPUSH, STORE, ServicePeers
from mapi_proc.receive.catchup import OVERLAP_NS, CatchUp, Gap, catch_up_policy
from mapi_proc.receive.dedup import Dedup
from mapi_proc.receive.history import HistoryJobs
from mapi_proc.receive.islands import Islands
from mapi_proc.receive.past import HistoryRange, PastTopics
from mapi_proc.receive.receiver import Receiver
from mapi_proc.receive.stores import StoreHistory
from mapi_proc.send.processors import Lightpush, Processor, Relay
from mapi_proc.send.service import RATE_NOTE, SendService
from mapi_proc.send.stores import StorePresence
from mapi_proc.send.task import SendTask
from mapi_proc.streams import (
    AckRefusedError,
    AppStream,
    CacheBudget,
    DurableLimits,
    DurableStream,
    EphemeralLimits,
    EphemeralStream,
)
from mapi_proc.subscriptions import (
    AutoSubscribe,
    Change,
    NeverSubscribe,
    SubscribeOnFirstSend,
    SubscriptionTable,
)
from mapi_proc.subscriptions.filter_keeper import FilterKeeper
from mapi_proc.turn import Turn

__all__ = ["Core"]

log = logging.getLogger(__name__)

_LEASE_WAIT_S: Final = 2.0
_UPKEEP_S: Final = 5.0
_PEERS_S: Final = 10.0
_GIVEN_EVERY_NS: Final = 600 * 1_000_000_000
_EDGE_REDUNDANCY: Final = 2
_SEEN_S: Final = 3600.0
"""How old the note on disk may be that a connected app is there."""
_UNDER_WAY_NS: Final = 5_000_000_000
"""How far a message's timestamp (its sender's) may lie beside the time at which it would have come here:
nwaku's DelayExtra."""
_RELAY: Final = "Relay"
_LIGHTPUSH_CLIENTS: Final = ("Lightpush Client", "Legacy Lightpush Client")
_STORE_CLIENT: Final = "Store Client"
_SECOND: Final = 1_000_000_000


class Core:
    """See the module's text. `await Core.open(…)`, `await run()` until cancelled, `await close()`."""

    def __init__(
        self,
        config: MapiConfig,
        database: Database,
        *,
        auto_subscribe: AutoSubscribe | None = None,
        now_ns: Callable[[], int] = time.time_ns,
        on_fatal: Callable[[Exception], None],
    ) -> None:
        """Use `Core.open`."""
        self.config = config
        self.database = database
        self.apps = AppRegistry()
        self.health = HealthTransition()
        self.missed_ranges = 0
        self.now_ns = now_ns
        self._loop = asyncio.get_running_loop()
        self._on_fatal = on_fatal
        if auto_subscribe is None:
            auto_subscribe = SubscribeOnFirstSend() if config.auto_subscribe else NeverSubscribe()
        self.auto_subscribe = auto_subscribe
        self._network: Network | None = None
        self._network_known = asyncio.Event()
        self._peers_changed = asyncio.Event()
        self._forget_given_at = 0
        self._node_health: NodeHealth | None = None
        self._positions: dict[str, Position] = {}
        self._saved_topics: dict[App, list[str]] = {}
        self._saved_sends: list[OutboxEntry] = []
        self._next_app_id = 1
        self._budget = CacheBudget()
        self._settle_timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._creating: dict[str, asyncio.Task[App]] = {}
        self.turn = Turn(database, self._cluster, self._position_of, self._turn_failed, now_ns)
        self.table: SubscriptionTable[AppStream] = SubscriptionTable(_no_network, max_topics=0)

    @classmethod
    async def open(
        cls,
        config: MapiConfig,
        *,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        auto_subscribe: AutoSubscribe | None = None,
        on_fatal: Callable[[Exception], None],
    ) -> Core:
        """Open the database and take up what it holds. `context`: of the sockets to the kernel. Raises
        DatabaseError, OSError."""
        database = await Database.open(Path(config.data_dir) / "mapi.sqlite3")
        try:
            core = cls(config, database, auto_subscribe=auto_subscribe, on_fatal=on_fatal)
            await core._load(context)
        except BaseException:
            await database.close()
            raise
        return core

    async def _load(self, context: zmq.Context[zmq.Socket[bytes]] | None) -> None:
        snapshot = await self.database.load()
        self._next_app_id = snapshot.next_app_id
        self.dedup = Dedup(loaded=snapshot.hashes)
        self.receiver = Receiver(self.table.routes, self.dedup, self.turn, self.now_ns)
        for position in snapshot.positions.values():
            self._positions[position.stream] = Position(
                position.instance, position.epoch, position.seq, position.good_moment
            )
        for record in snapshot.apps:
            stream = self._durable_stream(record, snapshot.extents.get(record.app_id, ()))
            app = App(record.name, record.uid, stream, record.app_id, record.last_seen)
            self.apps.add(app)
            self._saved_topics[app] = snapshot.subscriptions.get(record.app_id, [])
        self._saved_sends = snapshot.outbox
        requests, control = self.config.kernel.requests, self.config.kernel.control
        self.link = KernelLink(
            requests,
            control,
            f"mapi-{self.database.database_id.hex()}",
            self,
            wall_clock_ns=self.now_ns,
            context=context,
        )
        try:
            self._take_up(snapshot)
        except BaseException:
            await self.link.close()
            raise

    def _take_up(self, snapshot: Snapshot) -> None:
        """The part that needs the link."""
        self.turn.source = self.link
        self.peers = ServicePeers(time.monotonic, random.random)
        self.filters: FilterKeeper | None = None
        if self.config.mode is Mode.EDGE:
            self.filters = FilterKeeper(
                self.link,
                self.peers,
                lambda: {shard: self.table.topics_on(shard) for shard in self.table.shards},
                clock=time.monotonic,
                now_ns=self.now_ns,
                changed=self._edge_changed,
                missed=self.missed,
            )
        self.sends = SendService(
            self.database,
            self.turn,
            lambda: self.network,
            self.apps.find_stream,
            self._chain(),
            StorePresence(self.link, self.peers),
            clock=time.monotonic,
            now_ns=self.now_ns,
            jitter=random.random,
            window=self.config.send_window,
            reliability=self.config.reliability,
            rate_limit=self.config.send_rate_limit,
            max_tasks=self.config.outbox_max_messages,
            max_bytes=self.config.outbox_max_bytes,
            next_entry_id=snapshot.next_entry_id,
        )
        self.catchup = CatchUp(
            catch_up_policy(self.config.catch_up),
            StoreHistory(self.link, self.peers, self._cluster),
            clock=time.monotonic,
            now_ns=self.now_ns,
            topics_on=lambda shard: self.table.topics_on(shard),
            is_known=self.dedup.known.__contains__,
            deliver=self.receiver.recovered,
            tell=self._tell_missed,
            closed=self._moved,
        )
        self.islands = Islands(D_LOW)
        self.history = HistoryJobs(
            StoreHistory(self.link, self.peers, self._cluster),
            self.database,
            self.turn,
            self.receiver,
            clock=time.monotonic,
            has=lambda stream, topic: self.table.has(stream, topic),
        )
        self._past = PastTopics(self.config.max_topics_per_app)
        streams = {app.app_id: app for app in self.apps}
        for (app_id, topic), left in snapshot.left.items():
            if app_id in streams:
                self._past.left(streams[app_id], [topic], left)
        self._saved_history = snapshot.history
        self.sends.limiter.load(snapshot.notes.get(RATE_NOTE, b""))
        note = snapshot.notes.get(NETWORK_NOTE)
        network = Network.from_note(note) if note is not None else None
        if network is not None and self._contradiction(network.info) is None:
            self._adopt(network)

    def _chain(self) -> list[Processor]:
        """The ways out of this mode, in order."""
        if self.filters is not None:
            return [Lightpush(self.link, self.peers, _EDGE_REDUNDANCY, self._hears)]
        return [Relay(self.link), Lightpush(self.link, self.peers, 1)]

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.link.run(), name="kernel-link")
            group.create_task(self.sends.loop.run(), name="send-loop")
            group.create_task(self.catchup.run(), name="catch-up")
            group.create_task(self.history.run(), name="history")
            if self.filters is not None:
                group.create_task(self.filters.run(), name="filters")
            group.create_task(self._ticks(), name="ticks")
            group.create_task(self._follow_peers(), name="peers")
            group.create_task(self._upkeep(), name="upkeep")

    async def close(self) -> None:
        """Store what is open and close; may be called again."""
        self._closing = True
        if self._settle_timer is not None:
            self._settle_timer.cancel()
        await self.link.close()
        for shard in self.table.shards:
            if any(stream.durable for stream in self.table.subscribers_on(shard)):
                self.turn.moved(shard)
        now = self.now_ns()
        for app in self.apps.connected:
            if app.durable:
                self.turn.batch.app_seen(app.app_id, now)
        self.turn.flush()
        await self.database.close()

    # -- the network -------------------------------------------------------------------------------------

    @property
    def network(self) -> Network:
        """The network that the node is on. Raises `not_ready` until a kernel has told it once."""
        if self._network is None:
            raise IpcError(ErrorCode.NOT_READY, "the kernel has not been reached yet", retry_after_ms=200)
        return self._network

    @property
    def network_known(self) -> asyncio.Event:
        return self._network_known

    def _cluster(self) -> int:
        return self.network.info.cluster

    def _contradiction(self, info: NetworkInfo) -> ConfigError | None:
        try:
            self.config.check_network(info)
        except ConfigError as error:
            return error
        return None

    def _adopt(self, network: Network) -> None:
        """Begin to work on a network: the first one known, or another than before."""
        previous, self._network = self._network, network
        topics = self._saved_topics or {
            app: self.table.topics_of(app.stream) for app in self.apps if self.table.topics_of(app.stream)
        }
        self._saved_topics = {}
        if previous is not None:
            log.warning("the kernel is on another network than before; shards are worked out anew")
            self._unwant(self.table.shards)
        self.table = SubscriptionTable(network.shard_of, max_topics=self.config.max_topics_per_app)
        self.receiver.routes = self.table.routes
        for app, wanted in topics.items():
            errors = self.table.subscribe(app.stream, wanted).errors
            for topic, error in errors.items():
                log.warning("app %s: subscription to %r cannot be kept: %s", app.name, topic, error)
        self._want(self.table.shards)
        self._resume_history()
        if self._saved_sends:
            saved, self._saved_sends = self._saved_sends, []
            self.sends.resume(saved)
        self._network_known.set()

    def _resume_history(self) -> None:
        """Jobs that a restart interrupted."""
        saved, self._saved_history = self._saved_history, []
        streams = {app.app_id: app.stream for app in self.apps if app.durable}
        for wanted in saved:
            stream, route = streams.get(wanted.app_id), self.table.routes.get(wanted.topic)
            if stream is not None and route is not None:
                self.history.add(stream, route.shard, [wanted.topic], wanted.start, wanted.end)

    def _want(self, shards: Iterable[int]) -> None:
        positions: dict[int, Position] = {}
        shards = tuple(shards)
        for name, position in self._positions.items():
            cluster, shard = parse_stream(name)
            if cluster == self._cluster():
                positions[shard] = position
                if self.filters is None and shard in shards:
                    self.islands.restarted(shard, position.good_ns)
        self._positions = {}
        self.link.want(shards, positions)
        self._topics_changed()
        self._facts_changed()

    def _topics_changed(self) -> None:
        if self.filters is not None:
            self.filters.topics_changed()

    def _position_of(self, shard: int) -> Position | None:
        tracker = self.link.tracker(shard)
        if tracker is None:
            return None
        position = tracker.position
        good = position.good_ns
        for open_since in (self.catchup.oldest(shard), self.islands.since(shard, self.now_ns())):
            if open_since is not None:
                good = min(good, open_since)
        return position._replace(good_ns=good)

    # -- from the kernel link ----------------------------------------------------------------------------

    def kernel_up(self, hello: KernelHello) -> None:
        """The kernel's hello; refuses a kernel on a network that contradicts the configuration."""
        refusal = self._contradiction(hello.network)
        if refusal is not None:
            raise IpcError(ErrorCode.BAD_REQUEST, str(refusal))
        if self._network is None or self._network.info != hello.network:
            network = Network(hello.network)
            self._adopt(network)
            self.turn.batch.note(NETWORK_NOTE, network.to_note())
        log.info("kernel is up: %s", hello.server)
        self._update_facts(NodeFacts(kernel_up=True, edge=self._edge_peers(None)))
        if self.filters is not None:
            self.filters.kernel_up()
        self.sends.loop.set_online(True)
        self.catchup.set_online(True)
        self.history.set_online(True)

    def kernel_down(self, reason: str) -> None:
        """The kernel does not answer."""
        log.warning("kernel is down: %s", reason)
        self.sends.loop.set_online(False)
        self.catchup.set_online(False)
        self.history.set_online(False)
        if self.filters is not None:
            self.filters.kernel_down()
        self._update_facts(NodeFacts(kernel_up=False, kernel_reason=reason))

    def kernel_health(self, health: NodeHealth) -> None:
        """What the kernel reports of itself."""
        self._peers_changed.set()
        relay_health = next((p for p in health.protocols if p.name == _RELAY), None)
        relay = relay_health.strength if relay_health is not None else 0
        mesh = {shard.shard: shard.mesh_peers for shard in health.shards}
        before = self.health.facts
        if self.filters is not None:
            self.filters.health(health)
        else:
            stores = next((p.strength for p in health.protocols if p.name == _STORE_CLIENT), 0)
            for shard, missed in self.islands.update(self.now_ns(), stores, mesh, self.table.shards):
                self.missed(shard, missed)
        self._update_facts(
            NodeFacts(
                kernel_up=self.link.up,
                kernel_reason=before.kernel_reason,
                relay_off=relay_health is not None and relay_health.state == ProtocolState.NOT_MOUNTED,
                relay_peers=relay,
                mesh_peers=mesh,
                edge=self._edge_peers(health),
            )
        )
        if relay > before.relay_peers or any(
            n and not (before.mesh_peers or {}).get(s) for s, n in mesh.items()
        ):
            self.sends.loop.wake()

    def _edge_peers(self, health: NodeHealth | None) -> EdgePeers | None:
        """Who serves an edge node."""
        if self.filters is None:
            return None
        self._node_health = health
        if health is None:
            return EdgePeers()
        strengths = {protocol.name: protocol.strength for protocol in health.protocols}
        strength = self.filters.plan.strength
        pushing = {shard: n for shard in self.table.shards if (n := strength(shard)) is not None}
        return EdgePeers(
            filter=min(pushing.values()) if pushing else self.peers.count(FILTER),
            lightpush=max(strengths.get(name, 0) for name in _LIGHTPUSH_CLIENTS),
            store=strengths.get(_STORE_CLIENT, 0),
            pushing=pushing,
        )

    def _edge_changed(self) -> None:
        """Other peers push than before."""
        self._update_facts(replace(self.health.facts, edge=self._edge_peers(self._node_health)))

    async def _hears(self, shard: int, topic: str) -> None:
        """Wait until a message sent now would come back: else our own apps would not hear of it."""
        if self.filters is not None and topic in self.table.routes:
            await self.link.wait_leased((shard,), _LEASE_WAIT_S)
            await self.filters.wait_held({shard: (topic,)}, _LEASE_WAIT_S)

    def message(self, shard: int, event: MessageEvent, payload: bytes) -> None:
        """A message in order."""
        self.receiver.message(shard, event, payload)

    def missed(self, shard: int, missed: Missed) -> None:
        """Messages of this time may be missing: stores are asked, as the policy wants."""
        self.missed_ranges += 1
        log.info("shard %d: messages may be missing (%s)", shard, missed.reason)
        self.catchup.add(shard, missed)

    def _tell_missed(self, gap: Gap) -> None:
        """A gap is not recovered, or not yet: every app with a topic on the shard is told."""
        now = self.now_ns()
        for stream, topics in self.table.subscribers_on(gap.shard).items():
            fields = pack_fields(topics, gap.from_ns - _UNDER_WAY_NS, gap.to_ns + _UNDER_WAY_NS, gap.reason)
            stream.append(AppEventKind.MESSAGES_MISSED, now, fields, b"", self.turn.batch)

    def position(self, shard: int, position: Position) -> None:
        """The stream's position moved without a message; it is read again when it is stored."""
        if self.filters is not None:
            self.filters.leased(shard, position.instance, position.epoch)
        self._moved(shard)

    def _moved(self, shard: int) -> None:
        if any(stream.durable for stream in self.table.subscribers_on(shard)):
            self.turn.moved(shard)

    def _unwant(self, shards: Iterable[int]) -> None:
        gone = list(shards)
        self.link.unwant(gone)
        self._topics_changed()
        self.catchup.forget(gone)
        self.islands.forget(gone)

    # -- status ------------------------------------------------------------------------------------------

    def _facts_changed(self) -> None:
        self._update_facts(self.health.facts)

    def _update_facts(self, facts: NodeFacts) -> None:
        self.health.update(facts, frozenset(self.table.shards), self._loop.time())
        if self.health.settle_at is not None and self._settle_timer is None and not self._closing:
            self._settle_timer = self._loop.call_at(self.health.settle_at, self._settle)

    def _settle(self) -> None:
        self._settle_timer = None
        connection, shards = self.health.settle(self._loop.time())
        if connection is not None:
            log.info("connection: %s", ", ".join(filter(None, (connection.status, connection.reason))))
        now = self.now_ns()
        for app in self.apps.connected:
            if connection is not None:
                fields = pack_fields(str(connection.status), connection.reason)
                self._tell(app, AppEventKind.CONNECTION_STATUS_CHANGE, now, fields)
            for shard, health in shards.items():
                topics = self.table.topics_on(shard)
                for topic in sorted(topics):
                    if self.table.has(app.stream, topic):
                        self._tell_health(app, topic, health, now)
        if self.health.settle_at is not None:
            self._update_facts(self.health.facts)

    def _tell(self, app: App, kind: AppEventKind, now: int, fields: bytes) -> None:
        app.stream.append(kind, now, fields, b"", self.turn.batch)

    def _tell_health(self, app: App, topic: str, health: TopicHealth, now: int) -> None:
        self._tell(app, AppEventKind.CONTENT_TOPIC_HEALTH_CHANGE, now, pack_fields(topic, str(health)))

    def status(self, app: App | None) -> StatusReply:
        """The status as an app sees it; None: of all topics."""
        connection = self.health.connection()
        topics = self.table.topics_of(app.stream) if app is not None else sorted(self.table.routes)
        routes = self.table.routes
        return StatusReply(
            connection=str(connection.status),
            reason=connection.reason,
            resyncing=self.link.resyncing,
            topics={topic: str(self.health.shard(routes[topic].shard)) for topic in topics},
        )

    # -- apps --------------------------------------------------------------------------------------------

    def _durable_stream(self, record: AppRecord, extents: Sequence[JournalExtent]) -> DurableStream:
        limits = DurableLimits(
            max_bytes=self.config.journal_max_bytes, max_age=int(self.config.journal_max_age * _SECOND)
        )
        return DurableStream(
            record,
            extents,
            self.database.read_page,
            self._loop.call_soon,
            limits=limits,
            budget=self._budget,
        )

    async def open_app(self, name: str | None, uid: int | None) -> App:
        """The app of this name (made on disk if it is new), or a new ephemeral one. Raises IpcError."""
        if name is None:
            return self._open_ephemeral(uid)
        check_name(name)
        app = self.apps.named(name)
        if app is None:
            creating = self._creating.get(name)
            if creating is None:
                self._check_room()
                self._check_disk()
                creating = asyncio.create_task(self._create_app(name, uid), name=f"create {name}")
                self._creating[name] = creating
                creating.add_done_callback(lambda done: self._created(name, done))
            # Whoever asks may go away meanwhile: the record is on its way to the disk all the same.
            app = await asyncio.shield(creating)
        self._check_owner(app, uid)
        return app

    def _created(self, name: str, done: asyncio.Task[App]) -> None:
        del self._creating[name]
        if not done.cancelled() and done.exception() is not None:
            log.info("app %s could not be made: %s", name, done.exception())

    async def _create_app(self, name: str, uid: int | None) -> App:
        record = AppRecord(
            app_id=self._next_app_id,
            name=name,
            uid=-1 if uid is None else uid,
            stream_id=os.urandom(16),
            created=self.now_ns(),
            last_seen=self.now_ns(),
        )
        self._next_app_id += 1
        batch = self.database.batch()
        batch.create_app(record)
        await self._commit(batch)
        app = App(name, uid, self._durable_stream(record, ()), record.app_id, record.last_seen)
        self.apps.add(app)
        return app

    def _open_ephemeral(self, uid: int | None) -> App:
        self._check_room()
        limits = EphemeralLimits(
            max_bytes=self.config.ephemeral_max_bytes, max_events=self.config.ephemeral_max_events
        )
        stream = EphemeralStream(os.urandom(16), self._loop.call_soon, limits)
        app = App(f"ephemeral-{stream.stream_id.hex()[:16]}", uid, stream)
        self.apps.add(app)
        return app

    def _check_room(self) -> None:
        if len(self.apps) + len(self._creating) >= self.config.max_apps:
            raise IpcError(
                ErrorCode.BUSY, f"{self.config.max_apps} apps are known already", retry_after_ms=10_000
            )

    @staticmethod
    def _check_owner(app: App, uid: int | None) -> None:
        if app.uid is not None and app.uid >= 0 and uid is not None and app.uid != uid:
            raise IpcError(ErrorCode.UNAUTHORISED, f"the name {app.name} belongs to another user")

    def claim(
        self, app: App, connection: Connection, *, takeover: bool, instead_of: Connection | None = None
    ) -> None:
        """Make `connection` the app's only one; `attach` then begins to send. Raises `conflict` when the app
        has a live one and `takeover` is not said. `instead_of`: the same peer's connection before; it is not
        told.
        """
        other = app.connection
        if other is not None and other is not instead_of:
            if not takeover:
                raise IpcError(ErrorCode.CONFLICT, f"the name {app.name} has a live connection")
            other.taken_over(app.stream.taken_over(self.now_ns()))
        app.stream.detach()
        app.connection = connection

    def attach(self, app: App, connection: Connection, credit: int) -> None:
        """Begin to send to the connection that has claimed the app; nothing if another one has it by now."""
        if app.connection is connection:
            app.stream.attach(connection.send, credit)

    def detach(self, app: App, connection: Connection) -> None:
        """The connection is gone. An ephemeral app goes with it; its accepted sends do not."""
        if app.connection is not connection:
            return
        app.connection = None
        app.stream.detach()
        if app.durable:
            app.last_seen = self.now_ns()
            self.turn.batch.app_seen(app.app_id, app.last_seen)
        else:
            self._drop(app)

    def _drop(self, app: App) -> None:
        change = self.table.remove(app.stream)
        self._unwant(change.shards_lost)
        self.apps.remove(app)
        self.auto_subscribe.forget(app.name)
        self.history.forget(app.stream)
        self._past.forget(app)
        if change.shards_lost:
            self._facts_changed()

    async def forget(self, name: str, uid: int | None) -> None:
        """End a named app: stream, subscriptions, position. Raises IpcError."""
        app = self.apps.named(name)
        if app is None or not app.durable:
            raise IpcError(ErrorCode.BAD_REQUEST, f"no app is named {name}")
        self._check_owner(app, uid)
        if app.connection is not None:
            raise IpcError(ErrorCode.CONFLICT, f"the name {name} has a live connection")
        self._check_disk()
        self._drop(app)
        batch = self.database.batch()
        batch.forget_app(app.app_id)
        await self._commit(batch)

    async def subscribe(
        self,
        app: App,
        topics: Iterable[str],
        *,
        history: HistoryRange | None = None,
        wait: bool = True,
    ) -> dict[str, str]:
        """Subscribe; returns the errors by topic. `history`: what of the past is to come too. `wait`: until
        the kernel records the shards, if it is there.
        """
        _ = self.network
        if app.durable:
            self._check_disk()
        topics = list(topics)
        change = self.table.subscribe(app.stream, topics)
        taken = [topic for topic in topics if topic not in change.errors]
        if change.shards_gained:
            self._want(change.shards_gained)
        if change.changed:
            self._topics_changed()
            now = self.now_ns()
            for topic in change.changed:
                shard = self.table.routes[topic].shard
                if shard not in change.shards_gained:
                    self._tell_health(app, topic, self.health.shard(shard), now)
        jobs = self._past.jobs(app, taken, history, self.now_ns())
        if app.durable:
            # Also when nothing changed: a first try that was given up may not be on disk yet.
            batch = self.database.batch()
            batch.subscribe(app.app_id, taken)
            for (start, end), wanted in jobs.items():
                for topic in wanted:
                    batch.want_history(app.app_id, topic, start, end)
            await self._commit(batch)
        for (start, end), wanted in jobs.items():
            self._begin_history(app, wanted, start, end)
        if wait and change.changed and self.link.up:
            await self._wait_followed(change)
        return change.errors

    def _begin_history(self, app: App, topics: Iterable[str], start: int, end: int) -> None:
        by_shard: dict[int, list[str]] = {}
        for topic in topics:
            route = self.table.routes.get(topic)
            if route is not None:  # else it was unsubscribed meanwhile
                by_shard.setdefault(route.shard, []).append(topic)
        for shard, wanted in by_shard.items():
            self.history.add(app.stream, shard, wanted, start, end)

    async def _wait_followed(self, change: Change) -> None:
        """What is published from here on arrives, if the kernel and its peers can have it so at once."""
        if change.shards_gained:
            await self.link.wait_leased(change.shards_gained, _LEASE_WAIT_S)
        if self.filters is not None:
            topics: dict[int, list[str]] = {}
            for topic in change.changed:
                if topic in self.table.routes:
                    topics.setdefault(self.table.routes[topic].shard, []).append(topic)
            await self.filters.wait_held(topics, _LEASE_WAIT_S)

    async def unsubscribe(self, app: App, topics: Iterable[str]) -> dict[str, str]:
        """Unsubscribe; returns the errors by topic."""
        _ = self.network
        if app.durable:
            self._check_disk()
        topics = list(topics)
        change = self.table.unsubscribe(app.stream, topics)
        for topic in change.changed:
            self.auto_subscribe.unsubscribed(app.name, topic)
        now = self.now_ns()
        left = self._past.left(app, change.changed, now)
        self._unwant(change.shards_lost)
        if change.shards_lost:
            self._facts_changed()
        if app.durable:
            batch = self.database.batch()
            batch.unsubscribe(app.app_id, topics)
            batch.left(app.app_id, left, now)
            await self._commit(batch)
        return change.errors

    async def ack(self, app: App, stream_id: bytes, seq: int) -> int:
        """Everything up to `seq` is done with; returns the position when it is on disk. Raises IpcError."""
        if stream_id != app.stream.stream_id:
            raise IpcError(ErrorCode.CONFLICT, "that is not this app's stream")
        if app.durable:
            self._check_disk()
        batch = self.database.batch()
        try:
            acked = app.stream.ack(seq, batch)
        except AckRefusedError as error:
            raise IpcError(ErrorCode.BAD_REQUEST, f"ack: {error}") from error
        if not batch.empty:
            await self._commit(batch)
        return acked

    async def send(self, app: App, request: SendRequest, payload: bytes) -> bool:
        """Accept a send; True when it is a repeat. Its fate follows in the app's stream. Raises IpcError."""
        topic = request.content_topic
        shard = self.sends.check(request, payload)
        self._check_disk()
        if self.auto_subscribe.wants(app.name, topic, self.table.has(app.stream, topic)):
            errors = await self.subscribe(app, [topic], wait=False)
            if errors:
                raise IpcError(
                    ErrorCode.BAD_REQUEST, f"Failed to auto-subscribe before sending: {errors[topic]}"
                )
        return await self.sends.accept(app.stream, request, payload, shard)

    def cancel(self, app: App, request_id: bytes) -> bool:
        """Cancel a send before its first attempt; `message_cancelled` follows. False: too late,
        or unknown.
        """
        self._check_disk()
        return self.sends.cancel(app.stream, request_id)

    def pending(self, app: App) -> list[SendTask]:
        """The app's sends that are not final, oldest first."""
        return self.sends.pending(app.stream)

    async def node_info(self, ids: tuple[str, ...] | None) -> dict[str, object]:
        """The kernel's node information. Raises IpcError."""
        reply = await self.link.request(NODE_INFO, NodeInfoRequest(ids=ids).to_body())
        return NodeInfoReply.from_body(reply.body).info

    # -- disk and upkeep ---------------------------------------------------------------------------------

    def _check_disk(self) -> None:
        if self.database.state is DatabaseState.STALLED:
            reason = f"the disk cannot be written: {self.database.state_reason}"
            raise IpcError(ErrorCode.BUSY, reason, retry_after_ms=1000)
        if self.database.congested:
            reason = self.database.state_reason or "the disk is behind"
            raise IpcError(ErrorCode.BUSY, reason, retry_after_ms=200)

    async def _commit(self, batch: Batch) -> None:
        try:
            await self.database.commit(batch)
        except DatabaseBusyError as error:
            raise IpcError(ErrorCode.BUSY, "the disk is behind", retry_after_ms=200) from error
        except DatabaseClosedError as error:
            raise IpcError(ErrorCode.NOT_READY, "shutting down") from error

    def _turn_failed(self, error: Exception) -> None:
        if not self._closing:
            log.critical("a transaction could not be stored: %s", error)
            self._on_fatal(error)

    async def _follow_peers(self) -> None:
        """Keep the list of service peers: now and then, and soon after the kernel's health changed."""
        while True:
            try:
                async with asyncio.timeout(_PEERS_S):
                    await self._peers_changed.wait()
            except TimeoutError:
                pass
            self._peers_changed.clear()
            if not self.link.up:
                self.peers.update(())
                continue
            try:
                reply = await self.link.request(PEERS_LIST)
                stores, pushers = self.peers.count(STORE), self.peers.count(LIGHTPUSH)
                self.peers.update(PeersListReply.from_body(reply.body).peers)
                if self.filters is not None:
                    self.filters.peers_changed()
                if self.peers.count(LIGHTPUSH) > pushers:
                    self.sends.loop.wake()
                if self.peers.count(STORE) > stores:
                    self.catchup.wake()
                    self.history.wake()
            except IpcError as error:
                log.debug("peers of the kernel: %s", error)
                await asyncio.sleep(1.0)

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.catchup.tick(self.table.shards)

    def _horizons(self) -> dict[int, int]:
        """Per shard, the moment before which no catch-up will ask again: newer hashes are not forgotten."""
        horizons: dict[int, int] = {}
        for shard in self.table.shards:
            position = self._position_of(shard)
            if position is not None:
                horizons[shard] = position.good_ns - OVERLAP_NS
        return horizons

    async def _upkeep(self) -> None:
        """Age bounds of streams, memory of hashes, apps that stayed away too long."""
        while True:
            await asyncio.sleep(_UPKEEP_S)
            if self.database.congested:
                continue
            now = self.now_ns()
            batch = self.turn.batch
            self.dedup.evict(now, self._horizons(), batch)
            if now >= self._forget_given_at:
                self._forget_given_at = now + _GIVEN_EVERY_NS
                batch.evict_delivered(now - int(self.config.app_expiry * _SECOND))
            self.sends.keep_windows()
            away = now - int(self.config.app_expiry * _SECOND)
            seen = now - int(min(_SEEN_S, self.config.app_expiry / 4) * _SECOND)
            for app in self.apps:
                app.stream.expire(now, batch)
                if app.connection is not None:
                    if app.durable and app.last_seen < seen:
                        app.last_seen = now
                        batch.app_seen(app.app_id, now)
                elif app.durable and app.last_seen < away:
                    log.info("app %s was away too long and is forgotten", app.name)
                    self._drop(app)
                    batch.forget_app(app.app_id)
            self._bound_journals(now, batch)

    @property
    def journal_bytes(self) -> int:
        """What waits in the journals of all named apps, about."""
        return sum(stream.stored_bytes for stream in self._durable_streams())

    def _durable_streams(self) -> list[DurableStream]:
        return [app.stream for app in self.apps if isinstance(app.stream, DurableStream)]

    def _bound_journals(self, now: int, batch: Batch) -> None:
        """All journals together: the largest one gives first, and its app is told."""
        streams = self._durable_streams()
        excess = sum(stream.stored_bytes for stream in streams) - self.config.journal_total_bytes
        while excess > 0:
            largest = max(streams, key=lambda stream: stream.stored_bytes)
            freed = largest.shrink(largest.stored_bytes - excess, now, batch)
            if not freed:
                return
            excess -= freed


def _no_network(content_topic: str) -> int:  # noqa: ARG001
    raise IpcError(ErrorCode.NOT_READY, "the kernel has not been reached yet")
