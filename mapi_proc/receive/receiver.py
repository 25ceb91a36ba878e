"""The receive path: from a kernel message into the streams of the apps subscribed to its content topic.

Runs once per message of every followed shard, so it is short: one dict look-up for unwanted topics, one set
look-up for duplicates, one packing of the fields for any number of apps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ipc_schema.kernel.events import MessageEvent
from ipc_schema.kernel.store import StoredMessage
from ipc_schema.mapi.event_codec import fields_packer
from ipc_schema.mapi.events import HISTORY, AppEventKind
from mapi_proc.receive.dedup import Dedup
from mapi_proc.streams import AppStream, append_to_all
from mapi_proc.subscriptions import TopicRoute
from mapi_proc.write_batch import Turn

_RECEIVED: Final = int(AppEventKind.MESSAGE_RECEIVED)


@dataclass(slots=True)
class ReceiveCounters:
    """Messages of followed shards: `unsubscribed` (no app has the topic), `repeats` (duplicates),
    `accepted`.
    """

    unsubscribed: int = 0
    repeats: int = 0
    accepted: int = 0
    recovered: int = 0
    from_history: int = 0
    live_bytes: int = 0
    history_bytes: int = 0


class Receiver:
    """Routes messages to apps.

    `routes` is the subscription table's dict, shared; `now_ns` labels events, `steady` dates remembered
    hashes.
    """

    def __init__(
        self,
        routes: dict[str, TopicRoute[AppStream]],
        dedup: Dedup,
        turn: Turn,
        now_ns: Callable[[], int],
        steady: Callable[[], int],
    ) -> None:
        self.routes = routes
        self.counters = ReceiveCounters()
        self.dedup = dedup
        self._turn = turn
        self._now_ns = now_ns
        self._steady = steady
        self._pack_fields = fields_packer()

    def message(self, shard: int, event: MessageEvent, payload: bytes) -> None:
        """Take one message in order. `event` is the result of `decode_header`."""
        topic, message_hash = event[4], event[5]
        route = self.routes.get(topic)
        if route is None:
            self.counters.unsubscribed += 1
            return
        if not self.dedup.add(message_hash, shard, self._steady()):
            self.counters.repeats += 1
            return
        now = self._now_ns()
        self.counters.accepted += 1
        self.counters.live_bytes += len(payload)
        fields = self._pack_fields(
            event[4:10]
        )  # both headers have these six, in the same order; no source: live
        streams = route.subscribers
        batch = self._turn.batch if route.durable else None
        if len(streams) == 1:
            streams[0].append(_RECEIVED, now, fields, payload, batch)
        else:
            append_to_all(streams, _RECEIVED, now, fields, payload, batch)
        self._remember(route, shard, message_hash)

    def _remember(self, route: TopicRoute[AppStream], shard: int, message_hash: bytes) -> None:
        if route.durable:
            self._turn.received(shard, message_hash)
        for stream in route.subscribers:
            if stream.app_id:
                self._turn.delivered(stream.app_id, message_hash)
            else:
                stream.note_delivered(message_hash)

    def recovered(self, shard: int, stored: StoredMessage) -> None:
        """Take a message that a store had and the live stream had not."""
        message = stored.message
        route = self.routes.get(message.content_topic)
        if route is None or not self.dedup.add(stored.message_hash, shard, self._steady()):
            return
        now = self._now_ns()
        self.counters.recovered += 1
        self.counters.history_bytes += len(message.payload)
        fields = self._fields(stored)
        append_to_all(route.subscribers, _RECEIVED, now, fields, stored.message.payload, self._turn.batch)
        self._remember(route, shard, stored.message_hash)

    def _fields(self, stored: StoredMessage) -> bytes:
        message = stored.message
        return self._pack_fields(
            (
                message.content_topic,
                stored.message_hash,
                message.timestamp,
                message.meta,
                message.ephemeral,
                message.version,
                HISTORY,
            )
        )

    def from_history(self, shard: int, stream: AppStream, stored: StoredMessage) -> None:
        """Take a message that one app requested.

        If it is new to this node, it goes to every app subscribed to its topic.
        """
        if stored.message_hash not in self.dedup.known:
            self.recovered(shard, stored)
            return
        route = self.routes.get(stored.message.content_topic)
        if route is None or stream not in route.subscribers:
            return
        self.counters.from_history += 1
        self.counters.history_bytes += len(stored.message.payload)
        stream.append(
            _RECEIVED, self._now_ns(), self._fields(stored), stored.message.payload, self._turn.batch
        )
        if stream.app_id:
            self._turn.delivered(stream.app_id, stored.message_hash)
        else:
            stream.note_delivered(stored.message_hash)
