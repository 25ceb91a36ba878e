"""Follow the kernel's message streams for the polling routes, and fill their caches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final

from ipc_schema.message import WakuMessage
from ipc_schema.topics import shard_topic
from logos_client.exceptions import LogosError
from logos_client.kernel import KernelClient, KernelFeed
from logos_client.kernel_events import SOURCE_FILTER, KernelMessage, StreamLoss
from logos_gateway.json_values import write_message
from logos_gateway.polling_caches import TopicCache

log = logging.getLogger(__name__)

_FEED_BYTES: Final = 4 << 20


class RelayWatch:
    """One feed per watched shard. `relay` is by pubsub topic, `auto` and `filter` by content topic."""

    def __init__(self, capacity: int) -> None:
        self.relay = TopicCache(capacity)
        self.auto = TopicCache(capacity)
        self.filter = TopicCache(capacity)
        self.filter_shards: set[int] = set()
        """Shards leased for filter subscriptions."""
        self.lost = 0
        """Number of the kernel's events that could not be recovered, as far as known."""
        self._feeds: dict[int, tuple[KernelFeed, asyncio.Task[None]]] = {}
        self._lock = asyncio.Lock()

    @property
    def shards(self) -> frozenset[int]:
        return frozenset(self._feeds)

    async def watch(self, kernel: KernelClient, shards: Iterable[int]) -> None:
        """Lease these shards and follow them. Raises `LogosError`; those before the failing one remain."""
        async with self._lock:
            for shard in shards:
                if shard not in self._feeds:
                    feed = await kernel.events(shards=[shard], max_bytes=_FEED_BYTES).__aenter__()
                    task = asyncio.get_running_loop().create_task(self._follow(shard, feed, kernel))
                    self._feeds[shard] = feed, task

    async def unwatch(self, shard: int) -> None:
        async with self._lock:
            feed, task = self._feeds.pop(shard, (None, None))
            if feed is not None and task is not None:
                await feed.close()
                await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Release all shards."""
        for shard in list(self._feeds):
            await self.unwatch(shard)

    async def _follow(self, shard: int, feed: KernelFeed, kernel: KernelClient) -> None:
        topic = shard_topic(kernel.network.cluster, shard)
        try:
            async for event in feed:
                if isinstance(event, KernelMessage):
                    self._keep(topic, event)
                elif isinstance(event, StreamLoss):
                    self.lost += 1 if event.last is None else event.last - event.first + 1
                    log.warning("events of shard %d are lost: %s", shard, event.reason)
        except LogosError as error:
            log.warning("the feed of shard %d ended: %s", shard, error)

    def _keep(self, topic: str, event: KernelMessage) -> None:
        """Keep a message undecoded: most are never polled, and only those that are become JSON."""
        size = len(event.payload)
        if event.source == SOURCE_FILTER:
            self.filter.add(event.content_topic, event, size)
            return
        self.relay.add(topic, event, size)
        self.auto.add(event.content_topic, event, size)


def shown_messages(taken: Iterable[KernelMessage], *, proof: bool = True) -> list[dict[str, Any]]:
    """Return cached messages in the reference's form."""
    return [
        write_message(
            WakuMessage(
                one.payload,
                one.content_topic,
                one.version,
                one.timestamp,
                one.meta,
                one.proof,
                one.ephemeral,
            ),
            proof=proof,
        )
        for one in taken
    ]
