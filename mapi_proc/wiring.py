"""The parts of a Messaging API, made and joined, and nothing else: each part is told only of those it needs.

KernelLink ──> KernelListener ──> Receiver ──> streams of the apps ──> Turn ──> Database
                    ├──> StatusNotifier (connection, topic health)
                    └──> CatchUp, HistoryJobs ──> stores, through the kernel
SubscriptionService ──> FollowedShards ──> KernelLink, FilterKeeper
SendService ──> Database, then relay or lightpush, through the kernel
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ipc_schema.config.mapi import MapiConfig, Mode
from ipc_schema.steady import SteadyClock
from mapi_proc.apps import AppRegistry
from mapi_proc.apps.lifecycle import AppLifecycle
from mapi_proc.clocks import Clocks
from mapi_proc.database import Database, Snapshot
from mapi_proc.health import D_LOW
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.kernel_link.positions import Positions
from mapi_proc.kernel_listener import KernelListener
from mapi_proc.network import CurrentNetwork, NetworkKeeper
from mapi_proc.peer_watch import PeerWatch
from mapi_proc.peers import LIGHTPUSH, STORE, ServicePeers
from mapi_proc.receive.catchup import CatchUp, catch_up_policy
from mapi_proc.receive.dedup import Dedup
from mapi_proc.receive.delivered import GivenMessages
from mapi_proc.receive.delivered_bounds import GivenCount
from mapi_proc.receive.history import HistoryJobs
from mapi_proc.receive.history_ranges import PastTopics
from mapi_proc.receive.partitions import Islands
from mapi_proc.receive.receiver import Receiver
from mapi_proc.receive.stores import StoreHistory
from mapi_proc.send.processors import Lightpush, Processor, Relay
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

__all__ = ["Parts", "make_parts"]

_EDGE_REDUNDANCY: Final = 2
"""Lightpush services that an edge node gives a message to at once."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the core works with. `filters`: of an edge node."""

    network: CurrentNetwork
    networks: NetworkKeeper
    turn: Turn
    apps: AppRegistry
    lifecycle: AppLifecycle
    table: SubscriptionTable[AppStream]
    subscriptions: SubscriptionService
    shards: FollowedShards
    status: StatusNotifier
    receiver: Receiver
    catchup: CatchUp
    history: HistoryJobs
    filters: FilterKeeper | None
    sends: SendService
    peer_watch: PeerWatch
    listener: KernelListener
    upkeep: Upkeep


def make_parts(
    config: MapiConfig,
    database: Database,
    link: KernelLink,
    snapshot: Snapshot,
    *,
    auto_subscribe: AutoSubscribe | None,
    turn_failed: Callable[[Exception], None],
    clocks: Clocks,
    steady: SteadyClock,
) -> Parts:
    """All parts, as the snapshot has them. On a running loop; nothing runs yet.

    The wall clock labels what apps and other hosts read; whatever is kept and judged by its age is dated by
    `steady`.
    """
    now_ns, clock = clocks.now_ns, clocks.running
    edge = config.mode is Mode.EDGE
    network = CurrentNetwork()

    def cluster() -> int:
        return network.cluster

    given_count = GivenCount(snapshot.given)
    turn = Turn(database, cluster, lambda shard: positions.of(shard), turn_failed, steady, given_count)
    turn.source = link
    apps = AppRegistry()
    lifecycle = AppLifecycle(
        config,
        apps,
        database,
        turn,
        lambda app: subscriptions.drop(app),
        lambda app: bool(table.topics_of(app.stream)),
        snapshot,
        clock=clock,
        now_ns=now_ns,
        steady=steady,
    )
    table: SubscriptionTable[AppStream] = SubscriptionTable(
        network.shard_of, max_topics=config.max_topics_per_app
    )
    status = StatusNotifier(apps, table, turn, now_ns=now_ns, resyncing=lambda: link.resyncing)

    # What arrives, and what may have been missed.
    dedup = Dedup(loaded=snapshot.hashes)
    receiver = Receiver(table.routes, dedup, turn, now_ns, steady)
    peers = ServicePeers(clock, random.random)
    stores = StoreHistory(link, peers, cluster)
    catchup = CatchUp(
        catch_up_policy(config.catch_up),
        stores,
        clock=clock,
        steady=steady,
        label=steady.label,
        topics_on=table.topics_on,
        is_known=dedup.known.__contains__,
        room=turn.room,
        deliver=receiver.recovered,
        tell=lambda gap: status.missed(
            gap.shard, steady.label(gap.from_ns), steady.label(gap.to_ns), gap.reason
        ),
        closed=lambda shard: shards.moved(shard),
    )
    given = GivenMessages(database, turn)
    history = HistoryJobs(
        stores,
        turn,
        clock=clock,
        shard_of=table.shard_of,
        has=table.has,
        given=lambda app_id, since: given(app_id, steady.of_label(since)),
        deliver=receiver.from_history,
    )
    islands = Islands(D_LOW)
    positions = Positions(
        snapshot.positions.values(),
        link.tracker,
        (catchup.oldest, lambda shard: islands.since(shard, steady())),
    )

    # What is wanted.
    filters: FilterKeeper | None = None
    if edge:
        filters = FilterKeeper(
            link,
            peers,
            table.by_shard,
            clock=clock,
            now_ns=steady,
            changed=lambda: listener.edge_changed(),
            missed=catchup.add,
        )
    shards = FollowedShards(
        link,
        table,
        network,
        positions,
        turn,
        catchup=catchup,
        islands=islands,
        status=status,
        filters=filters,
    )
    if auto_subscribe is None:
        auto_subscribe = SubscribeOnFirstSend() if config.auto_subscribe else NeverSubscribe()
    subscriptions = SubscriptionService(
        apps,
        table,
        shards,
        history,
        PastTopics(config.max_topics_per_app, {app.app_id: app for app in apps}, snapshot.left),
        auto_subscribe,
        status=status,
        database=database,
        network=network,
        steady=steady,
        loaded=snapshot.subscriptions,
        loaded_history=snapshot.history,
    )

    # What is sent.
    chain: list[Processor] = [Relay(link), Lightpush(link, peers, 1)]
    if edge:
        chain = [Lightpush(link, peers, _EDGE_REDUNDANCY, shards.wait_echo)]
    sends = SendService(
        database,
        turn,
        network,
        apps.find_stream,
        Ways(chain, StorePresence(link, peers)),
        SendSettings.of(config),
        Timing(clock, now_ns, steady, random.random),
        snapshot,
    )

    # The kernel.
    networks = NetworkKeeper(
        network,
        config.check_network,
        (subscriptions.adopt, sends.adopt),
        keep=lambda key, note: turn.batch.note(key, note),
    )
    peer_watch = PeerWatch(
        link,
        peers,
        changed=filters.peers_changed if filters is not None else lambda: None,
        grown={
            LIGHTPUSH: (sends.loop.wake,),
            STORE: (catchup.wake, history.wake, sends.loop.confirm.peers_appeared),
        },
    )
    listener = KernelListener(
        networks.meet,
        receiver,
        shards,
        status,
        catchup,
        islands,
        sends.loop,
        peer_watch,
        (sends.loop, catchup, history),
        filters=filters,
        wanted=lambda: table.shards,
        now_ns=steady,
    )
    upkeep = Upkeep(
        config,
        database,
        turn,
        apps=apps,
        lifecycle=lifecycle,
        table=table,
        positions=positions,
        dedup=dedup,
        given_count=given_count,
        catchup=catchup,
        sends=sends,
        clocks=clocks,
        steady=steady,
    )
    return Parts(
        network=network,
        networks=networks,
        turn=turn,
        apps=apps,
        lifecycle=lifecycle,
        table=table,
        subscriptions=subscriptions,
        shards=shards,
        status=status,
        receiver=receiver,
        catchup=catchup,
        history=history,
        filters=filters,
        sends=sends,
        peer_watch=peer_watch,
        listener=listener,
        upkeep=upkeep,
    )
