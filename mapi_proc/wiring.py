"""The parts of a Messaging API, made and joined, and nothing else.

KernelLink ──> KernelListener ──> Receiver ──> streams of the apps ──> Turn ──> Database
                    ├──> StatusNotifier (connection, topic health)
                    └──> CatchUp, HistoryJobs ──> stores, through the kernel
SubscriptionService ──> FollowedShards ──> KernelLink, FilterKeeper
SendService ──> Database, then relay or lightpush, through the kernel
ChannelSlot ──> ChannelService, a subscriber and a sender like apps are; made when the first channel is

They are made in steps. A step uses what earlier ones made; where a part calls one of a later step, it gets a
function that looks it up when it is called.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from ipc_schema.config.mapi import MapiConfig, Mode
from ipc_schema.steady import SteadyClock
from mapi_proc.apps import App, AppRegistry
from mapi_proc.apps.lifecycle import AppLifecycle
from mapi_proc.channel_slot import ChannelSlot
from mapi_proc.clocks import Clocks
from mapi_proc.database import Database, Snapshot
from mapi_proc.health import D_LOW
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.kernel_link.positions import Positions
from mapi_proc.kernel_listener import KernelListener
from mapi_proc.network import CurrentNetwork, NetworkKeeper
from mapi_proc.peer_watch import PeerWatch
from mapi_proc.peers import LIGHTPUSH, STORE, ServicePeers
from mapi_proc.receive.catchup import CatchUp, CatchUpHooks
from mapi_proc.receive.dedup import Dedup
from mapi_proc.receive.delivered import delivered_since
from mapi_proc.receive.delivered_bounds import DeliveredCount
from mapi_proc.receive.history import HistoryJobs
from mapi_proc.receive.history_ranges import PastTopics
from mapi_proc.receive.partitions import Partitions
from mapi_proc.receive.receiver import Receiver
from mapi_proc.receive.stores import StoreHistory
from mapi_proc.send.processors import Chain, Lightpush, Relay
from mapi_proc.send.service import SendService, Ways
from mapi_proc.send.settings import SendSettings, Timing
from mapi_proc.send.stores import StorePresence
from mapi_proc.shards import FollowedShards
from mapi_proc.status import StatusNotifier
from mapi_proc.streams import AppStream
from mapi_proc.subscriptions import AutoSubscribe, NeverSubscribe, SubscribeOnFirstSend, SubscriptionTable
from mapi_proc.subscriptions.filter_keeper import FilterKeeper
from mapi_proc.subscriptions.service import SubscriptionService
from mapi_proc.upkeep import Upkeep
from mapi_proc.write_batch import Turn

if TYPE_CHECKING:
    from mapi_proc.channels.service import ChannelService


_EDGE_REDUNDANCY: Final = 2
"""Lightpush services to which an edge node pushes a message in parallel."""


class Foundation(NamedTuple):
    """What the parts are built on.

    The wall clock labels what apps and other hosts read; whatever is stored and judged by its age is dated
    by `steady`.
    """

    config: MapiConfig
    database: Database
    link: KernelLink
    snapshot: Snapshot
    clocks: Clocks
    steady: SteadyClock


class Parts:
    """All parts, restored from the snapshot. Create it on a running loop; nothing runs yet."""

    def __init__(
        self,
        base: Foundation,
        auto_subscribe: AutoSubscribe | None,
        turn_failed: Callable[[Exception], None],
    ) -> None:
        self._base = base
        self._edge = base.config.mode is Mode.EDGE
        self.network = CurrentNetwork()
        self._make_apps(turn_failed)
        self._make_receiving()
        self._make_subscriptions(auto_subscribe)
        self._make_sends()
        self._make_channels()
        self._make_listener()
        self._make_upkeep()

    def _make_apps(self, turn_failed: Callable[[Exception], None]) -> None:
        """Create the apps, their streams, and the transaction of a loop turn."""
        config, database, link, snapshot, clocks, steady = self._base
        self._delivered_count = DeliveredCount(snapshot.delivered)
        self.turn = Turn(
            database,
            lambda: self.network.cluster,
            lambda shard: self._positions.of(shard),
            turn_failed,
            steady,
            self._delivered_count,
        )
        self.turn.source = link
        self.apps = AppRegistry()
        self.table: SubscriptionTable[AppStream] = SubscriptionTable(
            self.network.shard_of, max_topics=config.apps.max_topics_per_app
        )
        self.lifecycle = AppLifecycle(
            options=config.apps,
            apps=self.apps,
            database=database,
            turn=self.turn,
            clocks=clocks,
            steady=steady,
            wants=lambda app: bool(self.table.topics_of(app.stream)),
            dropped=self._drop,
            snapshot=snapshot,
        )
        self.status = StatusNotifier(self.apps, self.table, self.turn, link, clocks.now_ns)

    def _drop(self, app: App) -> None:
        self.subscriptions.drop(app)
        self.channels.drop(app)

    def _make_receiving(self) -> None:
        """Create the receive path, catch-up and history."""
        config, database, link, snapshot, clocks, steady = self._base
        self._dedup = Dedup(loaded=snapshot.hashes)
        self.receiver = Receiver(self.table.routes, self._dedup, self.turn, clocks.now_ns, steady)
        self._peers = ServicePeers(clocks.running, random.random)
        stores = self._stores = StoreHistory(link, self._peers, lambda: self.network.cluster)
        self.catchup = CatchUp(
            config.messages.catch_up,
            stores,
            clock=clocks.running,
            steady=steady,
            label=steady.label,
            hooks=CatchUpHooks(
                topics_on=self.table.topics_on,
                is_known=self._dedup.known.__contains__,
                room=self.turn.room,
                deliver=self.receiver.recovered,
                notify=lambda gap: self.status.missed(
                    gap.shard, steady.label(gap.from_ns), steady.label(gap.to_ns), gap.reason
                ),
                closed=lambda shard: self.shards.moved(shard),
            ),
        )
        self.history = HistoryJobs(
            history=stores,
            turn=self.turn,
            table=self.table,
            clock=clocks.running,
            delivered=lambda app_id, since: delivered_since(
                database, self.turn, app_id, steady.of_label(since)
            ),
            deliver=self.receiver.from_history,
        )
        self._partitions = Partitions(D_LOW)
        self._positions = Positions(
            tuple(snapshot.positions.values()),
            link.tracker,
            (self.catchup.oldest, lambda shard: self._partitions.since(shard, steady())),
        )

    def _make_subscriptions(self, auto: AutoSubscribe | None) -> None:
        """Create the subscriptions and the followed shards."""
        config, database, link, snapshot, clocks, steady = self._base
        self.filters: FilterKeeper | None = None
        if self._edge:
            self.filters = FilterKeeper(
                link,
                self._peers,
                self.table.by_shard,
                clock=clocks.running,
                now_ns=steady,
                changed=lambda: self.listener.edge_changed(),
                missed=self.catchup.add,
            )
        self.shards = FollowedShards(
            link=link,
            table=self.table,
            network=self.network,
            positions=self._positions,
            turn=self.turn,
            catchup=self.catchup,
            partitions=self._partitions,
            status=self.status,
            filters=self.filters,
        )
        if auto is None:
            auto = SubscribeOnFirstSend() if config.messages.auto_subscribe else NeverSubscribe()
        apps_by_id = {app.app_id: app for app in self.apps}
        self.subscriptions = SubscriptionService(
            apps=self.apps,
            table=self.table,
            shards=self.shards,
            status=self.status,
            history=self.history,
            past=PastTopics(config.apps.max_topics_per_app, apps_by_id, snapshot.left),
            auto=auto,
            database=database,
            network=self.network,
            steady=steady,
            snapshot=snapshot,
        )

    def _make_sends(self) -> None:
        """Create the send path."""
        config, database, link, snapshot, clocks, steady = self._base
        if self._edge:
            chain = Chain(None, Lightpush(link, self._peers, _EDGE_REDUNDANCY, self.shards.wait_echo))
        else:
            chain = Chain(Relay(link), Lightpush(link, self._peers, 1))
        self.sends = SendService(
            database,
            self.turn,
            self.network,
            self.apps.find_stream,
            Ways(chain, StorePresence(link, self._peers)),
            SendSettings.of(config),
            Timing(clocks.running, clocks.now_ns, steady, random.random),
            snapshot,
        )

    def _make_channels(self) -> None:
        """Create the slot of reliable channels."""
        config, database, _, _, clocks, steady = self._base

        def make() -> ChannelService:
            # Imported here: without channels their code, and what it imports, stays out of the process.
            from mapi_proc.channels.service import ChannelService

            return ChannelService(
                config=config,
                database=database,
                turn=self.turn,
                apps=self.apps,
                table=self.table,
                shards=self.shards,
                network=self.network,
                stores=self._stores,
                sends=self.sends,
                clocks=clocks,
                steady=steady,
            )

        self.channels = ChannelSlot(make)

    def _make_listener(self) -> None:
        """Create the dispatcher of the kernel's reports."""
        config, _, link, _, _, steady = self._base
        self.networks = NetworkKeeper(
            self.network,
            config.check_network,
            (self.channels.adopt, self.subscriptions.adopt, self.sends.adopt),
            keep=lambda key, note: self.turn.batch.note(key, note),
        )
        self.peer_watch = PeerWatch(
            link,
            self._peers,
            appeared=lambda: self.listener.peers_appeared(),
            changed=lambda: self.listener.peers_changed(),
            grown={
                LIGHTPUSH: (self.sends.loop.wake, self.channels.wake),
                STORE: (self.catchup.wake, self.history.wake, self.sends.loop.confirm.peers_appeared),
            },
        )
        workers = (self.sends.loop, self.channels, self.catchup, self.history)
        self.listener = KernelListener(
            network=self.networks.meet,
            receiver=self.receiver,
            shards=self.shards,
            status=self.status,
            catchup=self.catchup,
            partitions=self._partitions,
            peers=self._peers,
            peer_watch=self.peer_watch,
            filters=self.filters,
            set_online=tuple(worker.set_online for worker in workers),
            wake=(self.sends.loop.wake, self.channels.wake),
            stores_away=lambda: self._stores.stores_away(self._base.clocks.now_ns() / 1e9),
            wanted=lambda: self.table.shards,
            now_ns=steady,
        )

    def _make_upkeep(self) -> None:
        """Create the periodic upkeep."""
        config, database, _, _, clocks, steady = self._base
        self.upkeep = Upkeep(
            options=config.apps,
            database=database,
            turn=self.turn,
            apps=self.apps,
            lifecycle=self.lifecycle,
            table=self.table,
            positions=self._positions,
            dedup=self._dedup,
            delivered_count=self._delivered_count,
            catchup=self.catchup,
            sends=self.sends,
            clocks=clocks,
            steady=steady,
        )
