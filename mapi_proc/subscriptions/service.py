"""Apps' subscriptions: in memory, on disk, in the kernel; and the history that they request."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterable
from dataclasses import InitVar, dataclass

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.steady import SteadyClock
from mapi_proc.apps import App, AppRegistry
from mapi_proc.database import Database, Snapshot
from mapi_proc.disk import Disk
from mapi_proc.network import AppNetwork, CurrentNetwork
from mapi_proc.receive.history import HistoryJobs
from mapi_proc.receive.history_ranges import HistoryRange, PastTopics
from mapi_proc.shards import FollowedShards
from mapi_proc.status import StatusNotifier
from mapi_proc.streams import AppStream
from mapi_proc.subscriptions.auto import AutoSubscribe
from mapi_proc.subscriptions.table import SubscriptionTable

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class SubscriptionService:
    """All subscriptions of all apps."""

    apps: AppRegistry
    table: SubscriptionTable[AppStream]
    shards: FollowedShards
    status: StatusNotifier
    history: HistoryJobs
    past: PastTopics
    auto: AutoSubscribe
    database: Database
    network: CurrentNetwork
    steady: SteadyClock
    snapshot: InitVar[Snapshot]
    """The subscriptions of the last run, restored once the network is known."""

    def __post_init__(self, snapshot: Snapshot) -> None:
        self._disk = Disk(self.database)
        self._adopted = False
        self._loaded = dict(snapshot.subscriptions)
        self._loaded_history = list(snapshot.history)

    def adopt(self, network: AppNetwork) -> None:
        """Start on a network: the first one known, or one that differs from the previous."""
        if self._adopted:
            log.warning("the kernel is on a different network than before; shards are computed again")
            self.shards.leave(self.table.shards)
        self._adopted = True
        lost = self.table.move(network.shard_of)
        loaded, self._loaded = self._loaded, {}
        streams = {app.app_id: app.stream for app in self.apps if app.durable}
        for app_id, topics in loaded.items():
            if app_id in streams:
                lost[streams[app_id]] = self.table.subscribe(streams[app_id], topics).errors
        for app in self.apps:
            for topic, error in lost.get(app.stream, {}).items():
                log.warning("app %s: subscription to %r cannot be kept: %s", app.name, topic, error)
        self.shards.follow(self.table.shards)
        loaded_history, self._loaded_history = self._loaded_history, []
        self.history.resume(loaded_history, streams)

    def renamed(self, old: bytes, new: bytes) -> None:
        """Follow a stream that got another id."""
        self.past.renamed(old, new)

    async def subscribe(
        self, app: App, topics: Iterable[str], *, history: HistoryRange | None = None, wait: bool = True
    ) -> dict[str, str]:
        """See `Core.subscribe`."""
        _ = self.network()
        if app.durable:
            self._disk.check()
        if history is not None and history.wanted:
            self.history.check_room(app.stream)
        topics = list(topics)
        change = self.table.subscribe(app.stream, topics)
        taken = [topic for topic in topics if topic not in change.errors]
        if change.shards_gained:
            self.shards.follow(change.shards_gained)
        if change.changed:
            self.shards.topics_changed()
            routes = self.table.routes
            known = [topic for topic in change.changed if routes[topic].shard not in change.shards_gained]
            self.status.topics_gained(app, known)
        label = self.steady.label
        jobs = {
            (label(start), label(end)): wanted
            for (start, end), wanted in self.past.jobs(app, taken, history, self.steady()).items()
        }
        if app.durable:
            # Even if nothing changed: a first call that was cancelled may not be on disk yet.
            batch = self.database.batch()
            batch.subscribe(app.app_id, taken)
            for (start, end), wanted in jobs.items():
                for topic in wanted:
                    batch.want_history(app.app_id, topic, start, end)
            await self._disk.commit(batch)
        for (start, end), wanted in jobs.items():
            self.history.begin(app.stream, wanted, start, end)
        if wait and change.changed:
            await self.shards.wait_heard(change)
        return change.errors

    def subscribe_to_send(self, app: App, topic: str) -> Awaitable[None] | None:
        """Subscribe as the policy wants before a send on the topic; None if it wants nothing. Raises
        IpcError when awaited."""
        wanted = self.auto.wants(app.name, topic, self.table.has(app.stream, topic))
        return self._subscribe_to_send(app, topic) if wanted else None

    async def _subscribe_to_send(self, app: App, topic: str) -> None:
        errors = await self.subscribe(app, [topic], wait=False)
        if errors:
            raise IpcError(ErrorCode.BAD_REQUEST, f"Failed to auto-subscribe before sending: {errors[topic]}")

    async def unsubscribe(self, app: App, topics: Iterable[str]) -> dict[str, str]:
        """See `Core.unsubscribe`."""
        _ = self.network()
        if app.durable:
            self._disk.check()
        topics = list(topics)
        change = self.table.unsubscribe(app.stream, topics)
        for topic in change.changed:
            self.auto.unsubscribed(app.name, topic)
        now = self.steady()
        left = self.past.left(app, change.changed, now)
        self.shards.leave(change.shards_lost)
        if app.durable:
            batch = self.database.batch()
            batch.unsubscribe(app.app_id, topics)
            batch.left(app.app_id, left, now)
            await self._disk.commit(batch)
        return change.errors

    def drop(self, app: App) -> None:
        """Remove the app's subscriptions."""
        change = self.table.remove(app.stream)
        self.shards.leave(change.shards_lost)
        self.auto.forget(app.name)
        self.history.forget(app.stream)
        self.past.forget(app)
