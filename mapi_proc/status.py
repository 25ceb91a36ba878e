"""Notify apps of the node's state: connection status, health of their topics, missed ranges."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from ipc_schema.kernel.records import TopicHealth
from ipc_schema.mapi.event_codec import pack_fields
from ipc_schema.mapi.events import AppEventKind
from ipc_schema.mapi.methods import StatusReply
from ipc_schema.mapi.paging import topic_page
from mapi_proc.apps import App, AppRegistry
from mapi_proc.health import HealthTransition, NodeFacts
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.streams import AppStream
from mapi_proc.subscriptions import SubscriptionTable
from mapi_proc.write_batch import Turn

log = logging.getLogger(__name__)

_UNDER_WAY_NS: Final = 5_000_000_000
"""Tolerance between a message's timestamp (its sender's clock) and its arrival time here: nwaku's
DelayExtra."""


@dataclass(eq=False)
class StatusNotifier:
    """Holds the current facts and notifies connected apps of transitions once they have settled. Create it on
    a running loop."""

    apps: AppRegistry
    table: SubscriptionTable[AppStream]
    turn: Turn
    link: KernelLink
    now_ns: Callable[[], int]

    def __post_init__(self) -> None:
        self.health = HealthTransition()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def update(self, facts: NodeFacts) -> None:
        """Take new facts about the node."""
        self.health.update(facts, frozenset(self.table.shards), self._loop.time())
        if self.health.settle_at is not None and self._timer is None and not self._closed:
            self._timer = self._loop.call_at(self.health.settle_at, self._settle)

    def refresh(self) -> None:
        """Handle a change of the wanted shards."""
        self.update(self.health.facts)

    def close(self) -> None:
        """Stop notifying."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _settle(self) -> None:
        self._timer = None
        changed, shards = self.health.settle(self._loop.time())
        now = self.now_ns()
        if changed is not None:
            log.info("connection: %s", ", ".join(filter(None, (changed.status, changed.reason))))
        for app in self.apps.connected:
            self.greet(app)
        connected = {app.stream for app in self.apps.connected} if shards else set()
        for shard, health in shards.items():
            for stream, topics in self.table.subscribers_on(shard).items():
                if stream in connected:
                    self._append_health(stream, topics, health, now)
        if self.health.settle_at is not None:
            self.refresh()

    def greet(self, app: App) -> None:
        """Notify the app of the connection status, unless its last event about it says the same.

        Called when it connects: the first status is an event in its place in the stream, as the changes are.
        """
        connection = self.health.connection()
        if app.notified_status != connection.status:
            app.notified_status = str(connection.status)
            fields = pack_fields(app.notified_status, connection.reason)
            kind = AppEventKind.CONNECTION_STATUS_CHANGE
            app.notified_seq = self._append(app.stream, kind, self.now_ns(), fields)

    def _append(self, stream: AppStream, kind: AppEventKind, now: int, fields: bytes) -> int:
        return stream.append(kind, now, fields, b"", self.turn.batch)

    def _append_health(self, stream: AppStream, topics: Iterable[str], health: TopicHealth, now: int) -> None:
        for topic in topics:
            fields = pack_fields(topic, str(health))
            self._append(stream, AppEventKind.CONTENT_TOPIC_HEALTH_CHANGE, now, fields)

    def topics_gained(self, app: App, topics: Iterable[str]) -> None:
        """Notify the app of its new topics' health."""
        now = self.now_ns()
        for topic in topics:
            self._append_health(app.stream, (topic,), self.health.shard(self.table.routes[topic].shard), now)

    def missed(self, shard: int, from_ns: int, to_ns: int, reason: str) -> None:
        """Notify every app with a topic on the shard of a gap that is not recovered, or not yet."""
        now = self.now_ns()
        for stream, topics in self.table.subscribers_on(shard).items():
            fields = pack_fields(topics, from_ns - _UNDER_WAY_NS, to_ns + _UNDER_WAY_NS, reason)
            self._append(stream, AppEventKind.MESSAGES_MISSED, now, fields)

    def reply(self, app: App | None, after: str = "") -> StatusReply:
        """Return the status as an app sees it (None: of all topics). `after`: the last topic of the page
        before."""
        connection = self.health.connection()
        routes = self.table.routes
        topics, more = topic_page(
            self.table.topics_of(app.stream) if app is not None else sorted(routes), after
        )
        return StatusReply(
            connection=str(connection.status),
            reason=connection.reason,
            resyncing=self.link.resyncing,
            topics={topic: str(self.health.shard(routes[topic].shard)) for topic in topics},
            more=more or None,
        )
