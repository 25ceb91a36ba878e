"""Follow the kernel's message streams for the routes that poll by content topic, and fill their caches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from logos_client.exceptions import LogosError
from logos_client.kernel import KernelClient, KernelFeed
from logos_client.kernel_events import SOURCE_FILTER, KernelMessage, StreamLoss
from logos_gateway.polling_caches import TopicCache

log = logging.getLogger(__name__)

_FEED_BYTES: Final = 4 << 20


class RelayWatch:
    """One feed per watched shard. `auto` and `filter` are by content topic."""

    def __init__(self, capacity: int) -> None:
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
                    task = asyncio.get_running_loop().create_task(self._follow(shard, feed))
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

    async def _follow(self, shard: int, feed: KernelFeed) -> None:
        try:
            async for event in feed:
                if isinstance(event, KernelMessage):
                    self._keep(event)
                elif isinstance(event, StreamLoss):
                    self.lost += 1 if event.last is None else event.last - event.first + 1
                    log.warning("events of shard %d are lost: %s", shard, event.reason)
        except LogosError as error:
            log.warning("the feed of shard %d ended: %s", shard, error)

    def _keep(self, event: KernelMessage) -> None:
        cache = self.filter if event.source == SOURCE_FILTER else self.auto
        if event.content_topic in cache:
            cache.add(event.content_topic, event, len(event.payload))
